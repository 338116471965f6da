"""Creation of a project for a user's images, with its pipeline, models and CI workflows."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from genie.cli.origin import PACKAGE, requirement
from genie.core.errors import FailedError, GenieError, InvalidValueError, one_line
from genie.core.progress import Progress, silent
from genie.data.checks import Look, look_at
from genie.data.folders import data_files
from genie.data.readers import read_class_names

VERSION_FILE = "genie-version.txt"

_GENIE = Path(__file__).parents[1]
_ORIGIN = _GENIE / "project" if (_GENIE / "project").is_dir() else _GENIE.parent
"""The folder with this repository's files; a wheel contains some of them in genie/project."""

_DVC = (sys.executable, "-m", "dvc")
_TEMPLATE = Path(__file__).parent / "template"

COPIED = (
    ".dvcignore",
    ".gitattributes",
    ".ci/reproduce",
    ".ci/report",
    "stages",
    "zoo/backbone",
    "zoo/clip",
    "zoo/generator",
    "zoo/oracle",
    "zoo/photographs/backbone",
    "zoo/photographs/clip",
)
"""Files and folders of this repository that are copied to a project."""

PHOTOGRAPHS = {
    "classifier": {"backbone": "zoo/photographs/backbone"},
    "filter": {"clip": "zoo/photographs/clip", "min_text": 0.16, "min_image": 0.55},
}
"""Parameters for photographs: models trained on CIFAR-10, and thresholds for the CLIP model."""

WRITTEN = {
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "dvcconfig": ".dvc/config",
    "requirements.txt": "requirements.txt",
    "github.yml": ".github/workflows/genie.yml",
    "gitlab.yml": ".gitlab-ci.yml",
    "prompts": "prompts",
}
"""Maps files and folders of the template to their paths in a project."""


def new_project(
    folder: Path, images: Path | None = None, *, progress: Progress = silent
) -> list[str]:
    """Write a project to `folder`, initialise git and DVC, and return the class names.

    `images` is a data set that `genie.data.readers` can read; it is copied to `photos` in the
    project. Without `images`, the list of class names is empty. Raise InvalidValueError if the
    folder is not empty or the images cannot be read, and FailedError if git or DVC fails.
    """
    classes = _checked_classes(folder, images)
    photos = f"photos{images.suffix if images and images.is_file() else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    _start_repositories(folder)
    for name in COPIED:
        _copy(_ORIGIN / name, folder / name)
    for name, target in WRITTEN.items():
        _copy(_TEMPLATE / name, folder / target)
    (folder / VERSION_FILE).write_text(pinned_version())
    (folder / "dvc.yaml").write_text(project_pipeline((_ORIGIN / "dvc.yaml").read_text()))
    parameters = project_parameters(
        (_ORIGIN / "params.yaml").read_text(),
        photos=photos,
        photographs=images is None or are_photographs(look_at(images)),
    )
    (folder / "params.yaml").write_text(parameters)
    tracked = ["zoo"]
    if images:
        _copy_images(images, folder / photos, progress)
        tracked.append(photos)
    _run(folder, [*_DVC, "add", "--quiet", *tracked])
    _run(folder, ["git", "add", "."])
    return classes


def pinned_version() -> str:
    """Return the text of the file that pins the library: a requirement that pip can install."""
    needed, pin = requirement(), f"{PACKAGE}=={version(PACKAGE)}"
    return f"{pin}\n" if needed == pin else f"# {pin}, from\n{needed}\n"


def project_pipeline(pipeline: str) -> str:
    """Return the dvc.yaml of a project, derived from this repository's dvc.yaml.

    Each stage depends on its file in the project's stages/, and on the file that pins the library's
    version instead of on the library's code.
    """
    editor = _round_trip()
    document = editor.load(pipeline)
    document.yaml_set_start_comment(
        "The pipeline, whose stages are in stages/. Another version of the library in\n"
        f"{VERSION_FILE} reruns all of them."
    )
    for stage in document["stages"].values():
        own = [d for d in stage["deps"] if not d.startswith("genie/")]
        stage["deps"] = [*own, VERSION_FILE]
    return _dumped(editor, document)


def are_photographs(look: Look) -> bool:
    """Return whether images have colour or are large, unlike the images in Fashion-MNIST."""
    return look.colour >= 0.1 or look.side > 64


def project_parameters(parameters: str, *, photos: str, photographs: bool) -> str:
    """Return the params.yaml of a project, with the comments of this repository's params.yaml.

    `photos` becomes `data.path`. The method is "strong", which needs no generator, and one task
    contains all images. `photographs` selects the backbone and the CLIP model for photographs,
    rather than those for small grey images.
    """
    editor = _round_trip()
    document = editor.load(parameters)
    document["data"]["path"] = photos
    document["data"] |= {"regime": "all", "tasks": 1}
    document["method"] = "strong"
    for section, values in PHOTOGRAPHS.items() if photographs else ():
        document[section] |= values
    return re.sub(r"docs/[\w/-]+\.md", "README.md", _dumped(editor, document))


def _checked_classes(folder: Path, images: Path | None) -> list[str]:
    """Return the class names of the images; raise GenieError if the project cannot be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidValueError(
            "must be a new or empty folder",
            argument="FOLDER",
            value=str(folder),
            remedy="choose another one",
        )
    if images and folder.resolve().is_relative_to(images.resolve()):
        raise InvalidValueError(
            f"must not be inside the images {images}",
            argument="FOLDER",
            value=str(folder),
            remedy="choose another one",
        )
    if shutil.which("git") is None:
        raise FailedError("a project needs git, which was not found", remedy="install it")
    return _readable(images) if images else []


def _readable(images: Path) -> list[str]:
    """Return the class names of the images; raise GenieError for a link without a target."""
    try:
        classes = read_class_names(images)
        files = data_files(images) if images.is_dir() else []
    except GenieError as error:
        if error.argument == "path":
            error.argument = "--data"
        raise
    if dead := [file for file in files if not file.exists()]:
        raise InvalidValueError(
            f"must have only links whose targets exist, but {len(dead)} do not, the first is "
            f"{dead[0]}",
            argument="--data",
            value=str(images),
            remedy="restore the targets or remove the links",
        )
    return classes


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _copy_images(images: Path, target: Path, progress: Progress) -> None:
    if images.is_file():
        shutil.copyfile(images, target)
        return
    files = data_files(images)
    for file in progress(files, "copy", total=len(files), unit="file"):
        copied = target / file.relative_to(images)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)


def _start_repositories(folder: Path) -> None:
    """Initialise a DVC repository, and a git repository unless the folder is already in one."""
    inside = subprocess.run(["git", "rev-parse"], cwd=folder, capture_output=True).returncode == 0
    if not inside:
        _run(folder, ["git", "init", "--quiet"])
    _run(folder, [*_DVC, "init", "--quiet", *(["--subdir"] if inside else [])])


def _run(folder: Path, command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    if done.returncode:
        output = one_line(RuntimeError(done.stderr or done.stdout))
        raise FailedError(f"`{' '.join(command)}` failed in {folder}: {output}")


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
