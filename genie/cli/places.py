"""The folders and files of commands: image store, caches, run notes, inputs and `--out`."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from genie.core.errors import InvalidValueError, MissingFileError


def work_folder(root: Path) -> Path:
    """Return the folder of the image store, the tokens and the cached embeddings.

    DVC experiments that run in temporary folders share this folder (DVC_ROOT).
    """
    return Path(os.environ.get("DVC_ROOT", root)) / ".genie"


def store_folder(root: Path) -> Path:
    """Return the folder of the image store."""
    return work_folder(root) / "store"


def features_file(root: Path) -> Path:
    """Return the file of cached image embeddings."""
    return work_folder(root) / "features.sqlite"


def runs_folder(root: Path) -> Path:
    """Return the folder for facts that differ between runs, such as run times."""
    return root / ".genie" / "runs"


def note_run(root: Path, name: str, **facts: float | str) -> None:
    """Write facts about this run to the JSON file `name`.

    In a DVC experiment, also write them to the experiment's folder in the shared work folder.
    """
    folders = [runs_folder(root)]
    if experiment := os.environ.get("DVC_EXP_NAME"):
        folders.append(work_folder(root) / "runs" / "experiments" / experiment)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


def require_tracked(paths: Iterable[Path]) -> None:
    """Raise MissingFileError for an input that is in the workspace but not in this folder.

    The temporary folder of an experiment contains only files that git or DVC tracks.
    """
    workspace = Path(os.environ.get("DVC_ROOT", "."))
    for path in paths:
        if not path.exists() and (workspace / path).exists():
            raise MissingFileError(
                f"{path} is not tracked, so experiments in temporary folders (--temp, --queue) do "
                "not have it",
                remedy=f"run `dvc add {path}` and try again",
            )


def require_writable(out: Path, endings: Iterable[str] = ()) -> None:
    """Raise InvalidValueError if a file cannot be written, before its content is computed.

    The file's folder is created. `endings` lists the allowed file endings; if it is empty, all are
    allowed.
    """
    if why := _why_not(out, tuple(endings)):
        raise InvalidValueError(why, argument="--out", value=str(out), remedy="name another file")


def _why_not(out: Path, endings: tuple[str, ...]) -> str:
    if endings and out.suffix.lower() not in endings:
        return f"must end in {', '.join(endings)}"
    if out.is_dir():
        return "is a folder"
    if out.is_file() and not out.stat().st_mode & 0o222:  # root could write into DVC's cache
        return "is read-only, as files are that DVC tracks and links"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not out.exists():
            with tempfile.TemporaryFile(dir=out.parent):
                pass
        elif not os.access(out, os.W_OK):
            return "cannot be written"
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return ""
