import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result

from genie.tools.cli import main
from genie.tools.new import project_parameters, project_pipeline
from stages.shared.params import check_params, read_yaml
from tests.scratch import ENVIRONMENT, ROOT, call

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
VERSION = "genie-version.txt"


def new(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["new", *(str(a) for a in arguments)])


def error_of(result: Result) -> str:
    """The one line on stderr of a command that failed."""
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def project(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the test images. Tests leave it as they find it."""
    folder = tmp_path_factory.mktemp("new") / "project"
    result = new(folder, "--data", photos)
    assert result.exit_code == 0, result.output
    assert "3 classes" in result.stdout
    return folder


def test_project_is_all_in_git_or_dvc_and_has_no_results_of_ours(project):
    assert call(project, "git", "ls-files", "--others", "--exclude-standard") == ""
    files = set(call(project, "git", "ls-files").splitlines())
    assert files >= {
        *("dvc.yaml", "params.yaml", "README.md", "requirements.txt", VERSION),
        *(".gitignore", ".dvcignore", ".dvc/config", ".gitlab-ci.yml"),
        *(".github/workflows/genie.yml", "photos.dvc", "zoo.dvc", "prompts/names.csv"),
    }
    assert not {f for f in files if "metrics" in f or f in ("dvc.lock", "zoo/quality.csv")}
    assert "up to date" in call(project, "dvc", "status", "photos.dvc", "zoo.dvc")


def test_pipeline_is_ours_with_the_package_in_place_of_the_code():
    made = yaml.safe_load(project_pipeline((ROOT / "dvc.yaml").read_text()))
    assert list(made["stages"]) == list(PIPELINE["stages"])
    assert made["plots"] == PIPELINE["plots"]
    for name, stage in made["stages"].items():
        ours = PIPELINE["stages"][name]
        code = [
            d for d in ours["deps"] if (ROOT / d).exists() and d.startswith(("genie", "stages"))
        ]
        assert len(code) > 3
        assert stage.pop("deps") == [d for d in ours["deps"] if d not in code] + [VERSION]
        assert stage.pop("cmd") == f"python -m genie.stages.{name}"
        assert stage == {k: v for k, v in ours.items() if k not in ("deps", "cmd")}


def test_parameters_are_ours_with_comments_but_for_data_and_method():
    ours = (ROOT / "params.yaml").read_text()
    made = project_parameters(ours, photos="photos.parquet")
    expected = read_yaml(ROOT / "params.yaml") | {"method": "strong"}
    expected["data"]["path"] = "photos.parquet"
    assert yaml.safe_load(made) == expected
    check_params(yaml.safe_load(made), where="test")
    before, after = ours.splitlines(), made.splitlines()
    assert len(before) == len(after)
    changed = [a for b, a in zip(before, after, strict=True) if a != b and "README.md" not in a]
    assert [line.split(":")[0].strip() for line in changed] == ["path", "method"]


def test_every_path_in_the_parameters_is_there(project):
    done = subprocess.run(
        [sys.executable, "-m", "stages.validate", "--params", project / "params.yaml"],
        cwd=project,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (project / ".params.ok").unlink()
    shutil.rmtree(project / ".genie")


def test_another_version_than_the_projects_is_refused(project, tmp_path):
    assert (project / VERSION).read_text().startswith("genie-pipeline==")
    shutil.copy(project / "params.yaml", tmp_path)
    (tmp_path / VERSION).write_text("genie-pipeline==99.1\n")
    done = subprocess.run(
        [sys.executable, "-m", "stages.prepare"],
        cwd=tmp_path,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {VERSION} names genie-pipeline 99.1, but")
    assert "pip install -r requirements.txt" in done.stderr


def test_address_in_place_of_a_version_is_left_to_pip(tmp_path):
    (tmp_path / VERSION).write_text("genie-pipeline @ git+https://example.org/genie@v9\n")
    done = subprocess.run(
        [sys.executable, "-m", "stages.prepare"],
        cwd=tmp_path,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == "Error: params.yaml does not exist; name an existing parameter file\n"


def test_project_inside_a_repository_joins_it(tmp_path):
    call(tmp_path, "git", "init", "--quiet")
    folder = tmp_path / "deep/project"
    assert new(folder).exit_code == 0
    assert not (folder / ".git").exists()
    assert "deep/project/zoo.dvc" in call(tmp_path, "git", "ls-files")
    assert "zoo" in call(folder, "dvc", "list", ".", "--dvc-only")


def test_project_without_images_says_where_to_put_them(tmp_path):
    result = new(tmp_path / "project")
    assert "dvc add photos" in result.stdout
    assert "method: strong" in result.stdout
    assert not (tmp_path / "project/photos").exists()


def test_parquet_file_is_copied_as_it_is(tmp_path, source_images):
    rows = [
        {"image": png, "label": f"class {i % 2}"} for i, png in enumerate(source_images.values())
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "mine.parquet")
    result = new(tmp_path / "project", "--data", tmp_path / "mine.parquet")
    assert "2 classes" in result.stdout
    params = read_yaml(tmp_path / "project/params.yaml")
    copied = tmp_path / "project" / params["data"]["path"]
    assert copied.read_bytes() == (tmp_path / "mine.parquet").read_bytes()


def test_folder_that_is_not_empty_stays_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    line = error_of(new(tmp_path))
    assert f"{tmp_path} must be a new or empty folder" in line
    assert f"{tmp_path}/notes.txt must be" in error_of(new(tmp_path / "notes.txt"))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_project_inside_its_own_images_is_refused(photos):
    line = error_of(new(photos / "project", "--data", photos))
    assert f"must not be inside the images {photos}" in line
    assert not (photos / "project").exists()


@pytest.mark.parametrize("images", ["nowhere", "empty"])
def test_images_that_cannot_be_read_are_named_before_anything_is_written(tmp_path, images):
    (tmp_path / "empty").mkdir()
    line = error_of(new(tmp_path / "project", "--data", tmp_path / images))
    assert str(tmp_path / images) in line
    assert not (tmp_path / "project").exists()


def test_failure_of_git_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "no/such"))
    assert "`git init --quiet` failed in" in error_of(new(tmp_path / "project"))


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-workflows", ".github/workflows/genie.yml"),
        ("vendor.gitlab-ci", ".gitlab-ci.yml"),
    ],
)
def test_workflow_passes_its_schema_and_calls_the_scripts_that_are_there(project, schema, file):
    call(
        project,
        *(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, file),
    )
    text = (project / file).read_text()
    for script in (".ci/reproduce", ".ci/report"):
        assert f"- run: {script}" in text or f"- {script}" in text
        assert os.access(project / script, os.X_OK)
    assert ".ci/reproduce" in (ROOT / ".ci/run").read_text()
