"""Garbage collection of stored images that no set refers to."""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from genie.cli.dvc_cache import TrackedFolder, missing_tables, tracked_sets
from genie.core.errors import InvalidValueError, one_line
from genie.render.locks import image_locks, in_use
from genie.render.store import sweep

TABLE = "trajectories.parquet"
DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Garbage:
    """The numbers of images and bytes to delete, and the number of images to keep."""

    images: int
    bytes: int
    kept: int


def collect(root: Path, store: Path, *, days: float, delete: bool) -> Garbage:
    """Count the stored images that no set refers to, and delete them if `delete` is True.

    Images younger than `days` are kept, because an interrupted run may still need them. Raise
    MissingFileError if the tables of a set are not on this machine, and FailedError if a run is
    using the store while images are deleted.
    """
    if not delete:
        return _dropped(root, store, days=days, delete=False)
    with in_use(store, alone=True):
        with image_locks(store) as locks:
            sweep(store, locks)
        return _dropped(root, store, days=days, delete=True)


def _dropped(root: Path, store: Path, *, days: float, delete: bool) -> Garbage:
    used = {key for keys in referred(root) for key in keys}
    before, dropped, size, kept = time.time() - days * DAY, 0, 0, 0
    for path in store.glob("??/*.png"):
        status = path.stat()
        if path.stem in used or status.st_mtime > before:
            kept += 1
            continue
        dropped, size = dropped + 1, size + status.st_size
        if delete:
            path.unlink()
    return Garbage(dropped, size, kept)


def referred(root: Path) -> Iterator[set[str]]:
    """Yield the keys of the images that each set refers to.

    These are the sets in the workspace, branches, tags and experiments, and the sets from protocols
    that ran on this machine (`.genie/protocols`).
    """
    rows = (root / ".genie/protocols").glob("**/keys/*.parquet")
    for path in (root / "data/augmented" / TABLE, *rows):
        if path.is_file():
            yield _keys(path.read_bytes(), str(path))
    for found in tracked_sets(root):
        yield _keys_of(found)


def _keys_of(found: TrackedFolder) -> set[str]:
    content = found.content(TABLE)
    if content is None:
        raise missing_tables(found.folder, found.revision)
    return _keys(content, f"{TABLE} of {found.folder} in {found.revision}")


def _keys(content: bytes, where: str) -> set[str]:
    try:
        return set(pd.read_parquet(io.BytesIO(content), columns=["key"])["key"])
    except (OSError, ValueError, KeyError) as error:
        raise InvalidValueError(
            f"must list the images of its set ({one_line(error)})",
            argument=where,
            remedy="run `genie verify --repair`",
        ) from error
