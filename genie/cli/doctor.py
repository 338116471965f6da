"""Checks of the machine, the models and the data before `dvc repro` runs."""

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_objects.fs.generic import test_links
from packaging.requirements import Requirement
from scmrepo.exceptions import SCMError
from scmrepo.git import Git

from genie.cli.messages import in_keys
from genie.cli.repository import require_own, show_to_git
from genie.cli.revisions import read_parameters
from genie.core.errors import FailedError, GenieError, one_line
from genie.core.progress import Progress, silent
from genie.data.checks import check_images
from genie.data.readers import read_class_names

log = logging.getLogger(__name__)

LEAST_CUT = 0.1  # of an image, below which nobody needs to know

OK, WARNING, STOP = "ok", "warning", "stop"

PACKAGE = "genie-pipeline"

MODELS = ("generator.model", "classifier.backbone", "oracle.model", "filter.clip")

LEAST_DISK, ENOUGH_DISK = 0.3, 5.0
"""Free disk space in GB that any run needs, and that large runs need."""


@dataclass(frozen=True)
class Finding:
    """The name, status (OK, WARNING or STOP) and message of one check."""

    about: str
    state: str
    text: str


def findings(root: Path, *, progress: Progress = silent) -> Iterator[Finding]:
    """Run all checks on the project at `root`; STOP means that `dvc repro` would fail.

    Slow steps are logged, and `progress` shows how many images have been read.
    """
    params = _parameters(root)
    for about, check in CHECKS.items():
        if check is data:
            check = partial(data, progress=progress)
        state, text = check(root, params)
        yield Finding(about, state, text)


Outcome = tuple[str, str]
"""The status and message of a finding."""

Check = Callable[[Path, dict[str, Any]], Outcome]


def python_version(root: Path, params: dict[str, Any]) -> Outcome:
    """Check the version of Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    required = metadata.metadata(PACKAGE)["Requires-Python"]
    if not Requirement(f"python{required}").specifier.contains(version):
        return STOP, f"{version}; {PACKAGE} needs {required}"
    return OK, f"{version} in {sys.prefix}"


def packages(root: Path, params: dict[str, Any]) -> Outcome:
    """Compare installed packages with the requirements and with constraints.txt."""
    for text in metadata.requires(PACKAGE) or []:
        needed = Requirement(text)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        have = _version(needed.name)
        if have is None or not needed.specifier.contains(have, prereleases=True):
            return STOP, f"{needed} is required, found {have or 'none'}; run `make repro`"
    other = [
        f"{name} {have} instead of {tested}"
        for name, tested in _tested(root)
        if (have := _version(name)) not in (None, tested)
    ]
    if not other:
        return OK, "all required packages, in the tested versions"
    shown = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
    return WARNING, f"other versions than tested: {shown}; pip install -c constraints.txt -e ."


def device(root: Path, params: dict[str, Any]) -> Outcome:
    """Report the device on which models run."""
    import torch  # slow to import, and not needed by other commands

    from genie.core.device import default_device

    name = default_device()
    if name == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        count = torch.cuda.device_count()
        return OK, f"{count} x {torch.cuda.get_device_name(0)} with {memory:.0f} GB"
    if name == "mps":
        return OK, "the GPU of this Mac"
    return (
        OK,
        f"{os.cpu_count()} CPU cores, no GPU (large generators such as Stable Diffusion need one)",
    )


def memory(root: Path, params: dict[str, Any]) -> Outcome:
    """Compare free memory with the size of the models."""
    free = psutil.virtual_memory().available / 1e9
    need = 1 + 2 * sum(_gigabytes(root / str(params[key])) for key in MODELS if key in params)
    text = f"{free:.1f} GB free"
    if free < need:
        return WARNING, f"{text}, the models may need {need:.1f} GB; close other programs"
    return OK, text


def disk(root: Path, params: dict[str, Any]) -> Outcome:
    """Check the free space of the disk."""
    free = shutil.disk_usage(root).free / 1e9
    if free < LEAST_DISK:
        return STOP, f"{free:.1f} GB free, which is not enough for a run; free some space"
    if free < ENOUGH_DISK:
        return WARNING, f"{free:.1f} GB free; `genie gc --delete` removes unused images"
    return OK, f"{free:.0f} GB free"


def parameters(root: Path, params: dict[str, Any]) -> Outcome:
    """Run the stage `validate`, which checks parameters, paths and the generator's classes."""
    try:
        stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        command = shlex.split(stages["validate"]["cmd"])
    except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        return STOP, f"dvc.yaml has no stage validate ({one_line(error)}); restore it from git"
    if command[0] == "python":
        command[0] = sys.executable
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [*command, "--root", folder],
            cwd=root,
            env={**os.environ, "DVC_ROOT": str(root)},  # where models that passed are listed
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        last = ""
        for line in process.stdout or ():
            if last:
                log.info(last)
            last = line.strip()
    text = re.sub(r"^(Error|validate): ", "", last or "no message")
    return (STOP if process.returncode else OK), text


def models(root: Path, params: dict[str, Any]) -> Outcome:
    """Report the model folders and their sizes."""
    folders = {key: root / str(params[key]) for key in MODELS if key in params}
    missing = [f"{key} {folder}" for key, folder in folders.items() if not folder.is_dir()]
    if missing:
        return STOP, f"missing: {', '.join(missing)}; `genie fetch ID FOLDER` downloads a model"
    bare = [f"{key} {f}" for key, f in folders.items() if not any(f.rglob("*.safetensors"))]
    if bare:
        return STOP, f"without .safetensors weights: {', '.join(bare)}; `genie fetch ID FOLDER`"
    return OK, ", ".join(
        f"{params[key]} ({1000 * _gigabytes(f):.0f} MB)" for key, f in folders.items()
    )


def data(root: Path, params: dict[str, Any], *, progress: Progress = silent) -> Outcome:
    """Count the classes and images of the data, and check that the images can be read."""
    path = root / str(params.get("data.path", ""))
    try:
        classes = read_class_names(path)
        found = check_images(path, progress=progress)
    except GenieError as error:
        return STOP, in_keys(error)
    except OSError as error:
        return STOP, f"{one_line(error)}; set data.path"
    cut = ""
    if params.get("data.crop", "centre") == "centre" and found.look.cut >= LEAST_CUT:
        cut = (
            f"; data.crop centre cuts off {found.look.cut:.0%} of an image on average, pad or "
            "squash keep all of it"
        )
    if found.broken:
        first = ", ".join(f"{place} ({why})" for place, why in found.broken[:3])
        more = ", ..." if len(found.broken) > 3 else ""
        text = f"{len(found.broken)} of {found.count} images cannot be read: {first}{more}"
        if params.get("data.broken") == "skip":
            return WARNING, f"{text}; data.broken leaves them out{cut}"
        return STOP, f"{text}; repair or remove them, or set data.broken to skip"
    text = f"{len(classes)} classes, {found.count} images in {path}"
    if found.step > 1:
        text += f"; one in {found.step} was decoded, of the others header and end were checked"
    return OK, text + cut


def cache(root: Path, params: dict[str, Any]) -> Outcome:
    """Report the type of links between DVC's cache and the workspace."""
    try:
        with Repo(str(root)) as repo:
            local = repo.cache.local
            kinds = list(local.cache_types)
            os.makedirs(local.path, exist_ok=True)
            links = ["reflink", "hardlink", "symlink"]
            possible = test_links(links, local.fs, local.path, repo.fs, repo.root_dir)
    except (DvcException, SCMError) as error:
        return STOP, f"{one_line(error)}; run `git init` and `dvc init`"
    used = next((kind for kind in kinds if kind in possible or kind == "copy"), None)
    if used is None:
        return STOP, f"cache.type {', '.join(kinds)} does not work here; add copy to it"
    if used == "copy" and "hardlink" in possible:
        text = "files are copied, so they take twice the space"
        return OK, f"{text}; `dvc config --local cache.type hardlink,copy` links them"
    return OK, f"files are linked ({used})" if used != "copy" else "files are copied"


def remote(root: Path, params: dict[str, Any]) -> Outcome:
    """Report the default remote, without contacting it."""
    try:
        with Repo(str(root)) as repo:
            name = repo.config["core"].get("remote")
            url = repo.config["remote"].get(name, {}).get("url") if name else None
            if name and url:
                repo.cloud.get_remote_odb()
    except (DvcException, SCMError) as error:
        return WARNING, f"{one_line(error)}; `dvc push` and `dvc pull` need it"
    if not url:
        return WARNING, "none, so sets cannot be shared; `dvc remote add -d team FOLDER-OR-URL`"
    return OK, f"{name}: {url}"


def git(root: Path, params: dict[str, Any]) -> Outcome:
    """Check that all files are committed, so that results belong to a commit."""
    try:
        require_own(root)
        scm = Git(str(root))
    except FailedError as error:
        return STOP, str(error)
    except SCMError as error:
        return STOP, f"{one_line(error)}; run `git init` and commit"
    if scm.no_commits:
        return WARNING, "no commit yet, but experiments require one; `git add --all && git commit`"
    show_to_git(root / "params.yaml")
    command = ["git", "status", "--porcelain"]
    changed = subprocess.run(command, cwd=root, text=True, capture_output=True, check=False)
    if count := len(changed.stdout.splitlines()):
        return WARNING, f"{count} files are not committed; commit them with the results"
    return OK, f"clean, at {scm.get_rev()[:7]}"


CHECKS: dict[str, Check] = {
    "Python": python_version,
    "packages": packages,
    "device": device,
    "memory": memory,
    "disk": disk,
    "models": models,
    "data": data,
    "parameters": parameters,
    "cache": cache,
    "remote": remote,
    "git": git,
}


def _parameters(root: Path) -> dict[str, Any]:
    """Return the parameters, or {} if they cannot be read; `parameters` reports the reason."""
    try:
        return read_parameters(root)
    except GenieError:
        return {}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _tested(root: Path) -> Iterator[tuple[str, str]]:
    """Return the tested versions by package from constraints.txt, if the file exists."""
    path = root / "constraints.txt"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        if found := re.match(r"([\w.-]+)==([^\s;]+)", line):
            yield found[1], found[2]


def _gigabytes(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*.safetensors")) / 1e9
