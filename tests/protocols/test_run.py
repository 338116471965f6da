from pathlib import Path

import yaml
from click.testing import CliRunner

from protocols import run

ROOT = Path(__file__).parents[2]


def test_overlay_does_not_replace_the_recorded_table():
    overlay = ["--overlay", "protocols/fewshot/paper.yaml"]
    for arguments in (["fewshot", *overlay], [*overlay, "--out", "paper"]):
        result = CliRunner().invoke(run.main, arguments)
        assert result.exit_code == 1
        assert "--overlay needs --out, and --out the name of one table" in result.output


def test_mistake_in_a_row_ends_the_command_with_one_line(tmp_path, monkeypatch):
    table = {
        "title": "t",
        "params": {},
        "settings": {"one": {}},
        "rows": {"A": {"noise.rr": 0.7}},
        "reference": "A",
    }
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/protocol.yaml").write_text(yaml.safe_dump(table))
    monkeypatch.setattr(run, "TABLES", tmp_path)
    arguments = ["tiny", "--params", str(ROOT / "params.yaml"), "--out", str(tmp_path / "out")]
    result = CliRunner(env={"DVC_ROOT": str(tmp_path)}).invoke(run.main, arguments)
    assert result.exit_code == 1
    assert result.output == "Error: one: A: noise.rr is not a known key; did you mean noise.r?\n"
    assert not (tmp_path / "out").exists()
