"""The wheel, installed where there is no repository: `genie new` and `dvc repro`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.scratch import ENVIRONMENT, ROOT, build_wheel, ran, read_json

STAGES = tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of a fresh virtual environment with the wheel; other packages are those of here."""
    place = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True)
    (packages,) = (place / "venv/lib").glob("python*/site-packages")
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "shared.pth").write_text("\n".join(shared))
    pip = (place / "venv/bin/python", "-m", "pip", "install", "--quiet", "--no-deps")
    subprocess.run([*pip, build_wheel(place)], check=True)
    return place / "venv/bin"


def call(bin_: Path, place: Path, *command: str) -> str:
    environment = {k: v for k, v in (os.environ | ENVIRONMENT).items() if k != "PYTHONPATH"}
    environment["PATH"] = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=place, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(installed: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the installed package after its first `dvc repro`."""
    place = tmp_path_factory.mktemp("outside")
    call(installed, place, "genie", "new", "project", "--data", str(photos))
    output = call(installed, place / "project", "python", "-m", "dvc", "repro")
    assert ran(output) == list(STAGES)
    return place / "project"


def test_package_is_that_of_the_wheel(installed, project):
    where = call(installed, project, "python", "-c", "import genie; print(genie.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)


def test_pipeline_runs_outside_of_the_repository(installed, project):
    assert read_json(project / "metrics/evaluate.json")["images"] == 0  # method: strong
    assert (project / "plots/contact_sheet.png").is_file()
    assert "accuracy without" in call(installed, project, "genie", "summary")
    assert "no metrics are committed" in call(installed, project, ".ci/reproduce", "true")


def test_requirements_install_the_package_in_an_empty_environment(installed, project, tmp_path):
    """pip fetches no dependencies here, because they take minutes."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = (str(tmp_path / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--no-deps")
    call(tmp_path / "venv/bin", project, *pip, "-r", "requirements.txt")
    code = "from importlib.metadata import version; print(version('genie-pipeline'))"
    ours = call(installed, project, "python", "-c", code)
    assert call(tmp_path / "venv/bin", project, "python", "-c", code) == ours


def test_generator_of_ones_own_makes_images(installed, project, tiny_sd_folder, tmp_path):
    place = tmp_path / "project"
    shutil.copytree(project, place, symlinks=True)
    shutil.copytree(tiny_sd_folder, place / "models/tiny")
    call(installed, place, "python", "-m", "dvc", "add", "--quiet", "models/tiny")
    params = yaml.safe_load((place / "params.yaml").read_text())
    params |= {"method": "genie", "generator": params["generator"] | {"model": "models/tiny"}}
    params["data"] |= {"tasks": 2, "shots": 3}
    params["augment"] |= {"per_class": 2}
    (place / "params.yaml").write_text(yaml.safe_dump(params))
    call(installed, place, "python", "-m", "dvc", "repro")
    assert read_json(place / "metrics/evaluate.json")["images"] > 0
    call(installed, place, "git", "add", "--all")
    files = call(installed, place, "git", "ls-files").splitlines()
    assert "models/tiny.dvc" in files
    assert not [f for f in files if f.endswith((".safetensors", ".png"))]


def test_another_version_of_the_package_reruns_every_stage(installed, project):
    file = project / "genie-version.txt"
    before = file.read_text()
    assert "up to date" in call(installed, project, "python", "-m", "dvc", "status")
    file.write_text(before.replace("==", "==9"))
    status = call(installed, project, "python", "-m", "dvc", "status", "--json")
    file.write_text(before)
    assert set(yaml.safe_load(status)) == set(STAGES)


def changed(bin_: Path, project: Path, name: str) -> set[str]:
    """The stages that DVC would run after an edit of a file."""
    file = project / name
    before = file.read_text()
    file.write_text(before + "\n# edited\n")
    status = call(bin_, project, "python", "-m", "dvc", "status", "--json")
    file.write_text(before)
    return set(yaml.safe_load(status))


def test_edited_stage_of_the_project_reruns_and_its_command_line_does_not(installed, project):
    assert {name: changed(installed, project, f"stages/{name}.py") for name in STAGES} == {
        name: {name} for name in STAGES
    }
    assert changed(installed, project, "stages/runner.py") == set()


def test_command_of_an_old_project_ends_in_one_line(installed, project):
    done = subprocess.run(
        [installed / "python", "-m", "genie.stages.generate"],
        cwd=project,
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: genie.stages was part of version 0.1: run `genie new`")
    assert done.stderr.count("\n") == 1
