"""Faults of a set's files: what is wrong with an image, and how a file is put back or removed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genie.cli.dvc_cache import replace_file
from genie.data.images import decode_image, image_id


@dataclass(frozen=True)
class Fault:
    """A file that is not what it must be, why, and what was done about it ("" for nothing)."""

    path: Path
    what: str
    done: str = ""


def fault_of(content: bytes | None, row: Any) -> str | None:
    """Return what is wrong with the content of an image that a row of metadata.csv names."""
    if content is None:
        return "is missing"
    try:
        found = image_id(decode_image(content))
    except Exception:  # decoders of damaged bytes raise anything
        return "does not decode"
    return None if found == row.image_id else "has other pixels than metadata.csv says"


def healed(path: Path, what: str, content: bytes | None, *, repair: bool) -> Fault:
    """Return the fault of a file; with `repair`, put its content back, or remove it without one."""
    if not repair:
        return Fault(path, what)
    if content is None:
        path.unlink(missing_ok=True)
        return Fault(path, what, "removed, `dvc repro` makes it again")
    replace_file(path, content)
    return Fault(path, what, "put back")
