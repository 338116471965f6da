"""A project for one's own images: its pipeline, parameters, models and CI workflows."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from genie.data.readers import read_class_names
from genie.errors import GenieError, one_line

PACKAGE = "genie-pipeline"
VERSION_FILE = "genie-version.txt"

_GENIE = Path(__file__).parents[1]
_ORIGIN = _GENIE / "project" if (_GENIE / "project").is_dir() else _GENIE.parent
"""The folder with this repository's files: a wheel carries some of them as genie/project."""

_DVC = (sys.executable, "-m", "dvc")
_TEMPLATE = Path(__file__).parent / "template"

COPIED = (
    ".dvcignore",
    ".ci/reproduce",
    ".ci/report",
    "zoo/backbone",
    "zoo/clip",
    "zoo/generator",
    "zoo/oracle",
)
"""Files and folders that a project has in common with this repository."""

WRITTEN = {
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "dvcconfig": ".dvc/config",
    "requirements.txt": "requirements.txt",
    "github.yml": ".github/workflows/genie.yml",
    "gitlab.yml": ".gitlab-ci.yml",
    "prompts": "prompts",
}
"""File or folder of the template -> path in the project."""

Watch = Callable[[list[Path]], Iterable[Path]]


def new_project(folder: Path, images: Path | None = None, *, watch: Watch = iter) -> list[str]:
    """Write a project to `folder` and put it under git and DVC; return its class names.

    `images` is a data set that `genie.data.readers` can read; it is copied to `photos` in the
    project. Without it, there are no class names yet. `watch` wraps the list of image files that
    are copied, for example in a progress bar. Raise GenieError if the folder is not empty, the
    images cannot be read, or git or DVC fails.
    """
    classes = _check(folder, images)
    photos = f"photos{images.suffix if images and images.is_file() else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    _start_repositories(folder)
    for name in COPIED:
        _copy(_ORIGIN / name, folder / name)
    for name, target in WRITTEN.items():
        _copy(_TEMPLATE / name, folder / target)
    (folder / VERSION_FILE).write_text(f"{PACKAGE}=={version(PACKAGE)}\n")
    (folder / "dvc.yaml").write_text(project_pipeline((_ORIGIN / "dvc.yaml").read_text()))
    parameters = project_parameters((_ORIGIN / "params.yaml").read_text(), photos=photos)
    (folder / "params.yaml").write_text(parameters)
    tracked = ["zoo"]
    if images:
        _copy_images(images, folder / photos, watch)
        tracked.append(photos)
    _run(folder, *_DVC, "add", "--quiet", *tracked)
    _run(folder, "git", "add", ".")
    return classes


def project_pipeline(pipeline: str) -> str:
    """Return dvc.yaml of a project, given this repository's: stages of the installed package.

    In place of the code, each stage depends on the file that names the package's version.
    """
    editor = _round_trip()
    document = editor.load(pipeline)
    document.yaml_set_start_comment(
        f"The pipeline. Another version of {PACKAGE} in {VERSION_FILE} reruns all stages."
    )
    for stage in document["stages"].values():
        stage["cmd"] = stage["cmd"].replace("python -m stages.", "python -m genie.stages.")
        others = [d for d in stage["deps"] if not d.startswith(("genie/", "stages/"))]
        stage["deps"] = [*others, VERSION_FILE]
    return _dumped(editor, document)


def project_parameters(parameters: str, *, photos: str) -> str:
    """Return params.yaml of a project, given this repository's, with their comments.

    `photos` is its data.path. The method is "strong", which needs no generator.
    """
    editor = _round_trip()
    document = editor.load(parameters)
    document["data"]["path"] = photos
    document["method"] = "strong"
    return _dumped(editor, document).replace("docs/methods.md", "README.md")


def _check(folder: Path, images: Path | None) -> list[str]:
    """Raise GenieError if the project cannot be written; return the class names of the images."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GenieError(f"{folder} must be a new or empty folder, it exists; choose another one")
    if images and folder.resolve().is_relative_to(images.resolve()):
        raise GenieError(f"{folder} must not be inside the images {images}; choose another folder")
    if shutil.which("git") is None:
        raise GenieError("a project needs git, which was not found; install it")
    return read_class_names(images) if images else []


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _copy_images(images: Path, target: Path, watch: Watch) -> None:
    if images.is_file():
        shutil.copyfile(images, target)
        return
    for file in watch(sorted(f for f in images.rglob("*") if f.is_file())):
        copied = target / file.relative_to(images)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)


def _start_repositories(folder: Path) -> None:
    """Start a git repository, unless the folder is in one, and a DVC repository."""
    inside = subprocess.run(["git", "rev-parse"], cwd=folder, capture_output=True).returncode == 0
    if not inside:
        _run(folder, "git", "init", "--quiet")
    _run(folder, *_DVC, "init", "--quiet", *(["--subdir"] if inside else []))


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    if done.returncode:
        said = one_line(RuntimeError(done.stderr or done.stdout))
        raise GenieError(f"`{' '.join(command)}` failed in {folder}: {said}")


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.width = 110
    yaml.preserve_quotes = True
    null = "tag:yaml.org,2002:null"
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar(null, "null"))
    return yaml


def _dumped(yaml: YAML, document: Any) -> str:
    text = StringIO()
    yaml.dump(document, text)
    return text.getvalue()
