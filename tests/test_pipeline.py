"""dvc.yaml against the code it runs."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def imported(path: Path, seen: set[Path]) -> set[Path]:
    """The file and every file of genie/ and stages/ that it imports, directly or not."""
    seen.add(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            module = ROOT / (name.replace(".", "/") + ".py")
            if name.startswith(("genie.", "stages.")) and module.is_file() and module not in seen:
                imported(module, seen)
    return seen


@pytest.mark.parametrize("name", STAGES)
def test_stage_lists_exactly_the_code_it_imports(name):
    expected = imported(ROOT / f"stages/{name}.py", set())
    listed = {ROOT / d for d in STAGES[name]["deps"] if d.endswith(".py")}
    assert listed == expected


def test_every_stage_waits_for_the_check_of_the_parameters():
    assert [n for n in STAGES if ".params.ok" not in STAGES[n]["deps"]] == ["validate"]


def test_only_evaluate_depends_on_the_query_images():
    users = [n for n in STAGES if "data/prepared/query" in STAGES[n]["deps"]]
    assert users == ["evaluate"]


def test_the_check_depends_on_every_section():
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert set(STAGES["validate"]["params"]) == set(sections)
