"""The wheel against the repository: what it carries, and that it works on its own."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.scratch import ENVIRONMENT, ROOT, build_wheel


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build_wheel(place)) as wheel:
        wheel.extractall(place / "unpacked")
    return place / "unpacked"


def test_wheel_has_the_library_and_the_stages_as_data_and_no_other_code(unpacked):
    ours = {
        *(path.relative_to(ROOT) for path in ROOT.glob("genie/**/*.py")),
        *("genie/project" / path.relative_to(ROOT) for path in ROOT.glob("stages/*.py")),
    }
    assert {path.relative_to(unpacked) for path in unpacked.rglob("*.py")} == ours
    assert [path.name for path in unpacked.iterdir() if "dist-info" not in path.name] == ["genie"]


def test_wheel_has_every_other_file_of_the_library(unpacked):
    files = [p for p in ROOT.glob("genie/**/*") if p.is_file() and "__pycache__" not in p.parts]
    missing = [p for p in files if not (unpacked / p.relative_to(ROOT)).is_file()]
    assert missing == []


@pytest.mark.parametrize(
    "model", ["backbone", "clip", "generator", "oracle", "photographs/backbone", "photographs/clip"]
)
def test_wheel_has_every_file_of_the_embedded_models(unpacked, model):
    there, ours = unpacked / "genie/project/zoo" / model, ROOT / "zoo" / model
    files = sorted(p.relative_to(ours) for p in ours.rglob("*") if p.is_file())
    assert files
    for file in files:
        assert (there / file).read_bytes() == (ours / file).read_bytes()


def test_wheel_has_all_that_a_project_needs_and_no_package_beside_the_library(unpacked, tmp_path):
    """Imports are those of the wheel: this process must not find ours."""
    script = "\n".join(
        [
            "from importlib.util import find_spec; from pathlib import Path",
            "import genie, genie.pipeline",
            "from genie.cli.new import _ORIGIN, COPIED",
            f"assert Path(genie.__file__).is_relative_to({str(unpacked)!r}), genie.__file__",
            "assert _ORIGIN.name == 'project'",
            "assert find_spec('stages') is None",
            "assert [name for name in COPIED if not (_ORIGIN / name).exists()] == []",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    stages = [f"stages/{path.name}" for path in ROOT.glob("stages/*.py")]
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".ci/reproduce", ".ci/report", *stages):
        assert (unpacked / "genie/project" / name).read_bytes() == (ROOT / name).read_bytes()
    template = ROOT / "genie/cli/template"
    for path in (p for p in template.rglob("*") if p.is_file()):
        assert (unpacked / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
