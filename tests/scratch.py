"""A scratch repository with this one's code, a small data set and a tiny generator."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from genie.classify.model_checks import check_models

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "1",
    "OMP_NUM_THREADS": "1",
    **{f"GIT_{who}_NAME": "Test" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "test@example.org" for who in ("AUTHOR", "COMMITTER")},
}
MODELS = {"embedder": "backbone", "oracle": "oracle", "clip": "clip"}
SMALL: dict[str, dict[str, Any]] = {
    "data": {"path": "photos", "tasks": 2, "shots": 3},
    "augment": {"per_class": 2},
    "generator": {"model": "models-tiny/generator", "steps": 20, "batch_size": 4},
}


def make_scratch(
    place: Path, photos: Path, generator: Path, changes: Mapping[str, Mapping[str, Any]]
) -> Path:
    """A git repository of the working tree's files, committed; its pipeline has not run yet.

    Recorded tables, stages of benchmarks/, bundled data and the generator of zoo/ stay behind. The
    other models of zoo/ have passed their checks, which take seconds.
    """
    place.mkdir()
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    behind = ("data/", "dvc.lock", "metrics/", "zoo/generator/", "benchmarks/dvc.")
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        recorded = name.startswith("protocols/") and Path(name).suffix in (".csv", ".yaml")
        if (ROOT / name).is_file() and not name.startswith(behind) and not recorded:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    shutil.copytree(generator, place / "models-tiny/generator")
    shutil.copytree(photos, place / "photos")
    path = place / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for changed in (SMALL, changes):
        for section, values in changed.items():
            params[section] |= values
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    (place / ".genie").mkdir()
    (place / ".genie/checked-models.json").write_text(checks_of_models())
    call(place, "git", "init", "--quiet")
    commit(place)
    return place


@cache
def checks_of_models() -> str:
    """The record that the backbone, the oracle and the CLIP of zoo/ have passed their checks."""
    folders = {key: ROOT / "zoo" / name for key, name in MODELS.items()}
    with tempfile.TemporaryDirectory() as folder:
        passed = Path(folder) / "checked-models.json"
        check_models(folders, passed)
        return passed.read_text()


def build_wheel(place: Path) -> Path:
    """Build the wheel of the working tree's files in a new folder; return its path."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        if (ROOT / name).is_file() and not name.startswith(
            ("data/bundled/t", "protocols/", "docs/")
        ):
            (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / "tree" / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    call(place, *pip, "--wheel-dir", str(place / "wheel"), str(place / "tree"))
    (wheel,) = (place / "wheel").glob("*.whl")
    return wheel


def with_lock_of_another_processor(place: Path) -> None:
    """Commit a dvc.lock whose outputs, from the first trained ones, are bytes that nobody has.

    Outputs in git, such as metrics, stay: they are committed together with the lock.
    """
    lock = (place / "dvc.lock").read_text()
    stages = yaml.safe_load(lock)["stages"]
    for name in list(stages)[list(stages).index("train_baseline") :]:
        for out in stages[name]["outs"]:
            if call(place, "git", "ls-files", out["path"]):
                continue
            digest = out["md5"].removesuffix(".dir")
            lock = lock.replace(digest, digest[::-1])
    (place / "dvc.lock").write_text(lock)
    commit(place)


def commit(place: Path) -> None:
    """Commit everything that git does not ignore."""
    call(place, "git", "add", "--all")
    call(place, "git", "commit", "--quiet", "--message", "scratch")


def call(place: Path, *command: str) -> str:
    """Output of a command in the scratch repository; a failure shows it."""
    done = subprocess.run(
        command,
        cwd=place,
        env=os.environ | ENVIRONMENT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def ran(output: str) -> list[str]:
    """The stages that `dvc repro` ran, from what it said."""
    return re.findall(r"Running stage '(\w+)'", output)


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
