from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from genie.settings import read_yaml
from protocols.execution import run_row
from protocols.forecast import costs, main
from protocols.specification import Row, read_protocol, rows_of

ROOT = Path(__file__).parents[2]
PARAMS = {"data.tasks": 2, "data.shots": 2, "augment.per_class": 2, "generator.steps": 10}


@pytest.fixture
def folder(photos, tmp_path, monkeypatch) -> Path:
    """A protocol with a fixed ratio, with all levels, and with learned tokens."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    protocol = {
        "title": "t",
        "params": {"data.path": str(photos), **PARAMS},
        "settings": {"one": {}},
        "rows": {"fixed": {"noise.r": 0.5}, "all": {}, "DA": {"method": "da-fusion", "noise.r": 1}},
        "reference": "all",
    }
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False))
    return tmp_path


def rows_in(folder: Path) -> list[Row]:
    protocol = read_protocol(folder / "protocol.yaml")
    return rows_of(protocol, read_yaml(ROOT / "params.yaml"), folder / "work")


def test_levels_that_an_earlier_row_has_are_not_counted_again(folder):
    fixed, every, learned = costs(rows_in(folder)).to_dict("records")
    assert (fixed["images"], fixed["new_images"]) == (12, 12)  # 2 tasks, 3 classes, 2 images
    assert fixed["steps"] == 12 * 5
    assert (every["images"], every["new_images"]) == (5 * 12, 4 * 12)
    assert every["new_steps"] == 12 * (6 + 7 + 8 + 9)
    assert (learned["images"], learned["tokens"]) == (12, 6)


def test_row_needs_what_was_forecast(folder, tiny_sd_folder):
    path = folder / "protocol.yaml"
    protocol = yaml.safe_load(path.read_text())
    model = {"generator.model": str(tiny_sd_folder), "generator.compile": False}
    protocol["params"] |= model | {"classifier.head": "prototype"}
    protocol["rows"] = {"all": {"noise.M": 2}}
    path.write_text(yaml.safe_dump(protocol))
    (row,) = rows_in(folder)
    (expected,) = costs([row]).to_dict("records")
    assert run_row(row).facts.guided_steps == expected["steps"]


def test_number_of_steps_must_be_known(folder):
    path = folder / "protocol.yaml"
    path.write_text(path.read_text().replace("generator.steps: 10", "generator.steps: null"))
    arguments = [
        str(folder),
        "--params",
        str(ROOT / "params.yaml"),
        "--place",
        str(folder / "work"),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.output == (
        "Error: one: fixed: generator.steps must be a number to count steps, got null; set it in "
        "the protocol\n"
    )
