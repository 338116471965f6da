from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from genie.settings import read_yaml
from protocols.run import main
from protocols.specification import read_protocol, rows_of

ROOT = Path(__file__).parents[2]
BASE = read_yaml(ROOT / "params.yaml")
FOLDERS = sorted(path.parent for path in ROOT.glob("protocols/*/protocol.yaml"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_stage_names_what_the_protocol_reads_and_writes(folder):
    (stage,) = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"].values()
    place = f"protocols/{folder.name}"
    assert stage["cmd"] == f"python -m protocols.run {place}"
    assert stage["params"] == [{"params.yaml": None}]
    read = {f"{place}/protocol.yaml", "prompts"}
    for row in rows_of(read_protocol(folder / "protocol.yaml"), BASE, ROOT):
        given = row.params
        models = given.generator.model, given.classifier.backbone, given.oracle.model
        read |= {path.as_posix() for path in (given.data.path, given.filter.clip, *models)}
    assert read == set(stage["deps"])  # code is none: results are held by protocols/check.py
    assert [next(iter(out)) for out in stage["outs"]] == [
        f"{place}/{name}"
        for name in ("tasks.csv", "results.csv", "results.md", "results.png", "check.json")
    ]


def test_overlay_does_not_replace_the_recorded_table():
    folder = "protocols/fewshot"
    result = CliRunner().invoke(main, [folder, "--overlay", f"{folder}/paper.yaml"])
    assert result.exit_code == 1
    assert "name its folder with --out" in result.output


def test_mistake_in_a_row_ends_the_command_with_one_line(tmp_path):
    protocol = {
        "title": "t",
        "params": {},
        "settings": {"one": {}},
        "rows": {"A": {"noise.rr": 0.7}},
        "reference": "A",
    }
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    result = CliRunner(env={"DVC_ROOT": str(tmp_path)}).invoke(
        main, [str(tmp_path), "--params", str(ROOT / "params.yaml"), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert result.output == "Error: one: A: noise.rr is not a known key; did you mean noise.r?\n"
    assert not (tmp_path / "out").exists()
