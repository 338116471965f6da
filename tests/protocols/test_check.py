import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from protocols import check
from protocols.run import main as run_protocol

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recorded(tmp_path, photos, tiny_sd_folder, monkeypatch) -> Path:
    """A folder of a protocol whose table was recorded, in an empty working folder."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    folder = tmp_path / "protocols/small"
    folder.mkdir(parents=True)
    for name in ("prompts", "zoo"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    protocol = {
        "title": "t",
        "params": {
            "data.path": str(photos),
            "data.tasks": 4,
            "data.shots": 2,
            "augment.per_class": 1,
            "generator.model": str(tiny_sd_folder),
            "generator.steps": 4,
            "generator.compile": False,
            "classifier.head": "prototype",
        },
        "settings": {"one": {}},
        "rows": {"Half": {"noise.r": 0.5}},
        "reference": "Half",
    }
    (folder / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    done = CliRunner().invoke(run_protocol, ["protocols/small"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder


def test_recorded_table_holds_and_another_formula_names_the_table(recorded):
    holds = CliRunner().invoke(check.main, [])
    assert holds.exit_code == 0, holds.output
    assert "1 tables hold" in holds.output
    wrong = json.loads((recorded / "check.json").read_text())
    wrong["augmented"] -= 0.05  # what another formula would have given
    wrong["guided_steps"] += 1
    (recorded / "check.json").write_text(json.dumps(wrong))
    fails = CliRunner().invoke(check.main, [])
    assert fails.exit_code == 1
    _, _, error = fails.output.partition("Error: ")
    named = [line.split(": ")[:2] for line in error.splitlines() if line.startswith("protocols/")]
    assert named == [["protocols/small", "augmented"], ["protocols/small", "guided_steps"]]


def test_check_renders_anew(recorded):
    """Neither images of the table nor those of an earlier check are read."""
    for _ in range(2):
        assert CliRunner().invoke(check.main, []).exit_code == 0
        made = json.loads((check.PLACE / "small/.genie/runs/rendering.json").read_text())
        assert made["rendered"] > 0
        assert made["found"] == 0


def test_check_of_no_table_fails(recorded):
    (recorded / "check.json").unlink()
    fails = CliRunner().invoke(check.main, ["protocols/small", "protocols/nowhere"])
    assert fails.exit_code == 1
    assert "protocols/small: left out, it has no check.json" in fails.output
    assert "protocols/nowhere: left out, it has no check.json" in fails.output
    assert "Error: no table could be checked" in fails.output
