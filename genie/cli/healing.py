"""Faults of the files of a set, and their repair."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genie.cli.dvc_cache import replace_file
from genie.data.images import decode_image, image_id


@dataclass(frozen=True)
class Fault:
    """A missing or damaged file, the reason, and its repair ("" for none)."""

    path: Path
    what: str
    done: str = ""


def fault_of(content: bytes | None, row: Any) -> str | None:
    """Return the fault of the content of an image that metadata.csv lists, or None."""
    if content is None:
        return "is missing"
    try:
        found = image_id(decode_image(content))
    except Exception:  # decoders of damaged bytes raise anything
        return "does not decode"
    return None if found == row.image_id else "has other pixels than metadata.csv says"


def healed(path: Path, what: str, content: bytes | None, *, repair: bool) -> Fault:
    """Return the fault of a file; with `repair`, restore the content or, without one, remove it."""
    if not repair:
        return Fault(path, what)
    if content is None:
        path.unlink(missing_ok=True)
        return Fault(path, what, "removed, `dvc repro` makes it again")
    replace_file(path, content)
    return Fault(path, what, "put back")
