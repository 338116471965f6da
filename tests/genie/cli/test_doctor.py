import logging
import os
import re
import shlex
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from dvc.repo import Repo
from PIL import Image

from genie.cli import doctor
from genie.cli.doctor import CHECKS, OK, STOP, WARNING
from genie.cli.main import main
from tests.scratch import ROOT, call


@pytest.fixture
def project(tmp_path: Path, photos: Path) -> Path:
    """A committed project with pictures of three known classes and the models of zoo/."""
    place = tmp_path / "project"
    place.mkdir()
    for name in ("zoo", "genie", "stages", "prompts", "constraints.txt", "dvc.yaml"):
        (place / name).symlink_to(ROOT / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["path"] = "photos"
    (place / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(photos, place / "photos")
    call(place, "git", "init", "--quiet")
    Repo.init(str(place)).close()
    call(place, "git", "add", "--all")
    call(place, "git", "commit", "--quiet", "--message", "project")
    return place


def configure(project: Path, section: str, **values: str) -> None:
    """Add a section to DVC's configuration, as `dvc config` does."""
    with (project / ".dvc/config").open("a") as file:
        file.write("".join([f"[{section}]\n", *(f"{k} = {v}\n" for k, v in values.items())]))


def check(project: Path, about: str, **params: object) -> tuple[str, str]:
    """State and text of one check, with the project's parameters and changes to them."""
    known = doctor.read_parameters(project) | {k.replace("__", "."): v for k, v in params.items()}
    return CHECKS[about](project, known)


def test_a_project_that_can_run_exits_with_0_and_one_line_per_check(project):
    result = CliRunner().invoke(main, ["doctor", "--root", str(project)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(CHECKS)
    assert {line.split()[1] for line in lines} <= {OK, WARNING}


def test_what_stops_a_run_is_named_and_exits_with_1(project, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {"data": CHECKS["data"], "git": CHECKS["git"]})
    shutil.rmtree(project / "photos")
    result = CliRunner().invoke(main, ["doctor", "--root", str(project)])
    assert result.exit_code == 1
    assert "  data        stop     " in result.stdout
    assert "  git         warning  " in result.stdout
    assert result.stderr == "Error: `dvc repro` would fail; see data above\n"


def test_parameters_are_checked_as_the_first_stage_does(project):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["noise"]["r"] = 1.7
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    state, text = check(project, "parameters")
    assert state == STOP
    assert text.startswith("params.yaml: noise.r must be ")
    assert not (project / ".params.ok").exists()


def test_project_without_a_pipeline_stops(project):
    (project / "dvc.yaml").unlink()
    state, text = check(project, "parameters")
    assert (state, "restore it from git" in text) == (STOP, True)


def test_missing_and_empty_model_folders_stop(project):
    state, text = check(project, "models", generator__model="models/none")
    assert state == STOP
    assert "generator.model" in text
    (project / "bare").mkdir()
    state, text = check(project, "models", oracle__model="bare")
    assert (state, "without .safetensors weights: oracle.model" in text) == (STOP, True)


def test_data_are_counted(project):
    assert check(project, "data") == (OK, f"3 classes, 30 images in {project}/photos")
    state, text = check(project, "data", data__path="photos/train/bag")
    assert (state, "found no images" in text) == (STOP, True)


def test_how_much_the_centre_crop_cuts_off_is_said(project):
    for file in (project / "photos").rglob("*.png"):
        with Image.open(file) as image:
            image.resize((40, 30)).save(file)
    state, text = check(project, "data")
    assert (state, "centre cuts off 25% of an image on average" in text) == (OK, True)
    assert "cuts off" not in check(project, "data", data__crop="pad")[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda photos: (photos / "train").rename(photos / "val"), "test/, val/ without train/"),
        (lambda photos: (photos / "test/bag/loop").symlink_to(".."), "link to a folder that conta"),
        (lambda photos: (photos / "train/fox").symlink_to("/no/where"), "fox links to /no/where"),
        (lambda photos: (photos / "train/empty").mkdir(), "images in each class folder"),
    ],
)
def test_folders_that_stop_a_run_are_named(project, change, words):
    change(project / "photos")
    state, text = check(project, "data")
    assert state == STOP
    assert text.startswith("data.path must have")
    assert words in text


@pytest.mark.parametrize(
    ("broken", "state", "remedy"),
    [("stop", STOP, "set data.broken to skip"), ("skip", WARNING, "data.broken leaves them out")],
)
def test_truncated_photograph_is_found(project, broken, state, remedy):
    first = sorted((project / "photos/train/bag").iterdir())[0]
    with Image.open(first) as image:
        image.convert("RGB").resize((256, 256)).save(first.with_suffix(".jpg"))
    first.unlink()
    os.truncate(first.with_suffix(".jpg"), 1000)
    found = check(project, "data", data__broken=broken)
    assert found[0] == state
    assert f"1 of 30 images cannot be read: {first.with_suffix('.jpg')} (" in found[1]
    assert found[1].endswith(remedy)


def test_of_many_photographs_a_sample_is_decoded_and_said(project, monkeypatch):
    monkeypatch.setattr("genie.data.checks.DECODED_BYTES", 1)
    state, text = check(project, "data")
    assert state == OK
    assert re.search(r"; one in \d+ was decoded, of the others header and end were checked", text)


def test_class_of_one_split_stops(project):
    shutil.rmtree(project / "photos/train/bag")
    state, text = check(project, "data")
    assert state == STOP
    assert "class 'bag' is in test but has no images in train" in text


def test_slow_steps_of_the_first_stage_are_logged(project, caplog):
    (project / "dvc.yaml").unlink()
    lines = ["embedder: checking the model in zoo/backbone", "validate: all is valid"]
    command = shlex.join(["python", "-c", f"print({lines[0]!r}); print({lines[1]!r})"])
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"validate": {"cmd": command}}}))
    caplog.set_level(logging.INFO, logger="genie")
    assert check(project, "parameters") == (OK, "all is valid")
    assert [record.getMessage() for record in caplog.records] == lines[:1]


def test_versions_that_differ_from_the_tested_ones_are_a_warning(project):
    (project / "constraints.txt").unlink()
    (project / "constraints.txt").write_text("# tested\nnumpy==1.0\nnot-installed==2\n")
    state, text = check(project, "packages")
    assert state == WARNING
    assert "numpy" in text
    assert "instead of 1.0" in text
    assert "not-installed" not in text


def test_a_required_package_that_is_missing_stops(project, monkeypatch):
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["nowhere-to-be-found>=3"])
    assert check(project, "packages") == (
        STOP,
        "nowhere-to-be-found>=3 is required, found none; run `make repro`",
    )


@pytest.mark.parametrize(("free", "state"), [(0.1, STOP), (2.0, WARNING), (50.0, OK)])
def test_free_disk_is_judged(project, monkeypatch, free, state):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(free * 1e9))
    assert check(project, "disk")[0] == state


@pytest.mark.parametrize(("free", "state"), [(0.5, WARNING), (100.0, OK)])
def test_free_memory_is_compared_with_the_models(project, monkeypatch, free, state):
    found = namedtuple("found", "available")
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: found(free * 1e9))
    assert check(project, "memory")[0] == state


def test_link_type_of_the_cache_is_what_dvc_uses(project):
    configure(project, "cache", type="hardlink,copy")
    assert check(project, "cache") == (OK, "files are linked (hardlink)")
    (project / ".dvc/config").write_text("")
    configure(project, "cache", type="copy")
    assert "`dvc config --local cache.type hardlink,copy`" in check(project, "cache")[1]


def test_remote_is_named_where_there_is_one(project, tmp_path):
    assert check(project, "remote")[0] == WARNING
    configure(project, "'remote \"team\"'", url=str(tmp_path / "shared"))
    configure(project, "core", remote="team")
    state, text = check(project, "remote")
    assert (state, text) == (OK, f"team: {tmp_path}/shared")


def test_git_state_says_whether_results_belong_to_a_commit(project, tmp_path):
    assert check(project, "git")[1].startswith("clean, at ")
    (project / "new.txt").write_text("new")
    assert check(project, "git") == (
        WARNING,
        "1 files are not committed; commit them with the results",
    )
    (tmp_path / "plain").mkdir()
    assert CHECKS["git"](tmp_path / "plain", {})[0] == STOP
    assert CHECKS["cache"](tmp_path / "plain", {})[0] == STOP
