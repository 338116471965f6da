import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from genie.cli.main import main
from genie.cli.new import project_parameters, project_pipeline
from genie.settings import check_params, read_yaml
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
        *(".gitignore", ".gitattributes", ".dvcignore", ".dvc/config", ".gitlab-ci.yml"),
        *(".github/workflows/genie.yml", "photos.dvc", "zoo.dvc", "prompts/names.csv"),
    }
    assert not {f for f in files if "metrics" in f or f in ("dvc.lock", "zoo/quality.csv")}
    assert "up to date" in call(project, "dvc", "status", "photos.dvc", "zoo.dvc")


def test_pipeline_is_ours_with_the_version_of_the_library_in_place_of_its_code():
    made = yaml.safe_load(project_pipeline((ROOT / "dvc.yaml").read_text()))
    assert list(made["stages"]) == list(PIPELINE["stages"])
    assert made["plots"] == PIPELINE["plots"]
    for name, stage in made["stages"].items():
        ours = PIPELINE["stages"][name]
        library = [d for d in ours["deps"] if (ROOT / d).exists() and d.startswith("genie/")]
        assert len(library) > 2
        assert stage["deps"] == [d for d in ours["deps"] if d not in library] + [VERSION]
        assert [d for d in stage["deps"] if d.startswith("stages/")] == [f"stages/{name}.py"]
        assert stage["cmd"] == f"python -m stages.{name}"
        assert stage | {"deps": ours["deps"]} == ours


def test_stages_are_copies_that_belong_to_the_project(project):
    ours = {path.name: path.read_bytes() for path in (ROOT / "stages").glob("*.py")}
    theirs = {path.name: path.read_bytes() for path in (project / "stages").iterdir()}
    assert theirs == ours
    tracked = call(project, "git", "ls-files", "stages").split()
    assert tracked == sorted(f"stages/{name}" for name in ours)


def old_project(project: Path, place: Path) -> Path:
    """A copy of a project as version 0.1 made it."""
    shutil.copytree(project, place, symlinks=True)
    shutil.rmtree(place / "stages")
    pipeline = yaml.safe_load((place / "dvc.yaml").read_text())
    for name, stage in pipeline["stages"].items():
        stage["cmd"] = f"python -m genie.stages.{name}"
        stage["deps"] = [d for d in stage["deps"] if not d.startswith("stages/")]
    (place / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    params = (place / "params.yaml").read_text()
    for new, old in (("min_position:", "least:"), ("min_text:", "least_text:")):
        assert f"  {new}" in params
        params = params.replace(f"  {new}", f"  {old}")
    (place / "params.yaml").write_text(params)
    (place / VERSION).write_text("genie-pipeline==0.1.0\n")
    return place


def stage(place: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run the command of a stage as DVC does, with this repository as the installed library."""
    return subprocess.run(
        [sys.executable, *command.split()[1:]],
        cwd=place,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", PIPELINE["stages"])
def test_stage_of_an_old_project_ends_in_one_line_on_how_to_move(tmp_path, name):
    done = stage(tmp_path, f"python -m genie.stages.{name}")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    for words in ("genie new", "stages/", "dvc.yaml", VERSION, "params.yaml"):
        assert words in line


def test_old_project_that_follows_the_line_works_again(project, tmp_path):
    old = old_project(project, tmp_path / "old")
    command = yaml.safe_load((old / "dvc.yaml").read_text())["stages"]["validate"]["cmd"]
    assert stage(old, command).stderr.startswith("Error: genie.stages was part of version 0.1")
    assert new(tmp_path / "empty").exit_code == 0
    shutil.copytree(tmp_path / "empty/stages", old / "stages")
    shutil.copy(tmp_path / "empty/dvc.yaml", old)
    command = yaml.safe_load((old / "dvc.yaml").read_text())["stages"]["validate"]["cmd"]
    assert f"{VERSION} pins genie-pipeline 0.1.0" in stage(old, command).stderr
    shutil.copy(tmp_path / "empty" / VERSION, old)
    message = stage(old, command).stderr
    params = (old / "params.yaml").read_text()
    for old_key, new_key in re.findall(r"\w+\.(\w+) is no longer a key; use \w+\.(\w+)", message):
        params = params.replace(f"  {old_key}:", f"  {new_key}:")
    (old / "params.yaml").write_text(params)
    assert stage(old, command).returncode == 0


def test_parameters_are_ours_with_comments_but_for_data_and_method():
    ours = (ROOT / "params.yaml").read_text()
    made = project_parameters(ours, photos="photos.parquet", photographs=False)
    expected = read_yaml(ROOT / "params.yaml") | {"method": "strong"}
    expected["data"] |= {"regime": "all", "tasks": 1}
    expected["data"]["path"] = "photos.parquet"
    assert yaml.safe_load(made) == expected
    check_params(yaml.safe_load(made), where="test")
    before = re.sub(r"docs/\S+\.md", "README.md", ours).splitlines()
    after = made.splitlines()
    changed = [a for b, a in zip(before, after, strict=True) if a != b]
    assert [line.split(":")[0].strip() for line in changed] == [
        *("path", "regime", "tasks", "method")
    ]


@pytest.mark.parametrize(
    ("mode", "side", "photographs"), [("RGB", 40, True), ("L", 40, False), ("L", 200, True)]
)
def test_models_fit_the_images(tmp_path, mode, side, photographs):
    for number, label in enumerate(("bag", "coat")):
        (tmp_path / "images" / label).mkdir(parents=True)
        noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(noise).convert(mode).save(tmp_path / "images" / label / "1.png")
    assert new(tmp_path / "project", "--data", tmp_path / "images").exit_code == 0
    params = check_params(read_yaml(tmp_path / "project/params.yaml"), where="test")
    place = "zoo/photographs" if photographs else "zoo"
    assert str(params.classifier.backbone) == f"{place}/backbone"
    assert str(params.filter.clip) == f"{place}/clip"
    assert params.filter.min_text == (0.16 if photographs else 0.37)
    size = sum(p.stat().st_size for p in (tmp_path / "project/zoo").rglob("*") if p.is_file())
    assert size < 40e6


def test_every_path_in_the_parameters_is_there(project):
    done = stage(project, "python -m stages.validate")
    assert done.returncode == 0, done.stderr
    (project / ".params.ok").unlink()
    shutil.rmtree(project / ".genie")
    for cache in project.rglob("__pycache__"):
        shutil.rmtree(cache)


def test_another_version_than_the_projects_is_refused(project, tmp_path):
    assert (project / VERSION).read_text().startswith("# genie-pipeline==")
    shutil.copy(project / "params.yaml", tmp_path)
    (tmp_path / VERSION).write_text("genie-pipeline==99.1\n")
    done = stage(tmp_path, "python -m stages.prepare")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {VERSION} pins genie-pipeline 99.1, but")
    assert "pip install -r requirements.txt" in done.stderr


def test_address_in_place_of_a_version_is_left_to_pip(tmp_path):
    (tmp_path / VERSION).write_text("genie-pipeline @ git+https://example.org/genie@v9\n")
    done = stage(tmp_path, "python -m stages.prepare")
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
    assert f"FOLDER must be a new or empty folder, got '{tmp_path}'" in line
    assert f"got '{tmp_path}/notes.txt'" in error_of(new(tmp_path / "notes.txt"))
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


def test_copy_has_what_links_lead_to_and_nothing_hidden_or_technical(photos, tmp_path):
    images = tmp_path / "images"
    (images / "bag/@eaDir").mkdir(parents=True)
    shutil.copy(photos / "test/bag/1.png", images / "bag/@eaDir/thumb.png")
    shutil.copytree(images / "bag/@eaDir", images / "bag/.cache")
    (images / "bag/own").symlink_to(photos / "test/bag")
    (images / "coat").symlink_to(photos / "test/coat")
    (images / "LICENSE").write_text("free")
    assert "2 classes" in new(tmp_path / "project", "--data", images).stdout
    copied = [p for p in (tmp_path / "project/photos").rglob("*") if not p.is_dir()]
    assert not any(p.is_symlink() for p in copied)
    assert {p.relative_to(tmp_path / "project/photos").as_posix() for p in copied} == {
        "LICENSE",
        *(f"bag/own/{p.name}" for p in (photos / "test/bag").iterdir()),
        *(f"coat/{p.name}" for p in (photos / "test/coat").iterdir()),
    }


@pytest.mark.parametrize("name", ["coat", "bag/1.png"])
def test_links_without_a_target_are_named_before_anything_is_written(tmp_path, name):
    for label in ("bag", "shoe"):
        (tmp_path / "images" / label).mkdir(parents=True)
        (tmp_path / "images" / label / "0.png").touch()
    (tmp_path / "images" / name).symlink_to("/no/where")
    line = error_of(new(tmp_path / "project", "--data", tmp_path / "images"))
    assert line.startswith("Error: --data must have only links whose targets exist")
    assert f"{tmp_path}/images/{name}" in line
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
    command = f"{sys.executable} -m check_jsonschema --builtin-schema {schema} {file}"
    call(project, *command.split())
    text = (project / file).read_text()
    for script in (".ci/reproduce", ".ci/report"):
        assert f"- run: {script}" in text or f"- {script}" in text
        assert os.access(project / script, os.X_OK)
    assert ".ci/reproduce" in (ROOT / ".ci/run").read_text()
