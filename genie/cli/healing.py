"""Faults in the files of a set, and their repair."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genie.cli.dvc_cache import replace_file
from genie.data.images import decode_image, image_id


@dataclass(frozen=True)
class Fault:
    """A missing or damaged file, its fault, and its repair ("" if there is none)."""

    path: Path
    what: str
    done: str = ""


def fault_of(content: bytes | None, row: Any) -> str | None:
    """Return the fault of an image that metadata.csv lists, or None if it has no fault."""
    if content is None:
        return "is missing"
    try:
        found = image_id(decode_image(content))
    except Exception:  # decoders can raise anything on damaged bytes
        return "does not decode"
    return None if found == row.image_id else "does not match its hash in metadata.csv"


def healed(path: Path, what: str, content: bytes | None, *, repair: bool) -> Fault:
    """Return the fault of a file; with `repair`, write `content` to it, or remove it if None."""
    if not repair:
        return Fault(path, what)
    if content is None:
        path.unlink(missing_ok=True)
        return Fault(path, what, "removed; `dvc repro` recreates it")
    replace_file(path, content)
    return Fault(path, what, "restored")
