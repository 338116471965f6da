"""Checks that the files and tables of a set, DVC's hashes and the store agree.

Images are read one at a time, or one shard at a time, so memory use does not grow with the set.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from genie.cli.dvc_cache import TrackedFolder, md5
from genie.cli.healing import Fault, fault_of, healed
from genie.cli.sharded import faults_of_shards, shard_names
from genie.core.errors import GenieError
from genie.core.progress import Progress, silent
from genie.core.tables import MEMBERS, METADATA, TRAJECTORIES, inside, read_table
from genie.data.prompts import is_slug
from genie.data.shards import is_shard
from genie.render.store import load_image, store_path

TABLES = {"metadata.csv": METADATA, "members.csv": MEMBERS, "trajectories.parquet": TRAJECTORIES}


def faults(
    folder: Path,
    store: Path,
    tracked: TrackedFolder | None,
    *,
    repair: bool,
    progress: Progress = silent,
) -> Iterator[Fault]:
    """Yield all faults of a set and of the store; with `repair`, repair each one first.

    A damaged file is replaced by an undamaged copy from DVC's cache or the store. If there is no
    such copy, the file is removed, so that `dvc repro` recreates it. Before a shard is removed, its
    undamaged images are saved to the store. A damaged file in the store is replaced by the set's
    image, or removed. If `tracked` is None, DVC's hashes are not compared.
    """
    yield from _faults_of_tables(folder, tracked, repair=repair)
    try:
        metadata = read_table(folder / "metadata.csv", METADATA)
        members = read_table(folder / "members.csv", MEMBERS)
    except GenieError as error:
        yield Fault(folder, str(error))
        metadata = members = pd.DataFrame(columns=list(METADATA))
    yield from _disagreements(folder, metadata, members)
    reported: set[str] = set()
    sharded = bool(shard_names(folder, tracked))
    images = faults_of_shards if sharded else _faults_of_files
    named, misnamed = _named(metadata.itertuples(index=False))
    for row in misnamed:
        what = f"{row.file_name} must be named by label and key"
        yield Fault(folder / "metadata.csv", what)
    rows = progress(named, "images of the set", total=len(named), unit="image")
    for fault in images(folder, rows, store, tracked, repair=repair):
        reported.add(fault.path.stem)
        yield fault
    yield from _strays(folder, set() if sharded else set(metadata["file_name"]))
    stored = sorted(store.glob("??/*.png"))
    for path in progress(stored, "images of the store", total=len(stored), unit="image"):
        if load_image(store, path.stem) is None and path.stem not in reported:
            yield healed(path, "is damaged", None, repair=repair)


def _faults_of_tables(
    folder: Path, tracked: TrackedFolder | None, *, repair: bool
) -> Iterator[Fault]:
    """Yield the faults of files other than images: content that differs from DVC's hash."""
    for name in sorted(tracked.hashes if tracked else ()):
        path = inside(folder, name)
        if path.suffix == ".png" or is_shard(name) or not tracked:
            continue
        content = path.read_bytes() if path.is_file() else None
        if content is not None and md5(content) == tracked.hashes[name]:
            continue
        what = "is missing" if content is None else "is not the file that DVC recorded"
        yield healed(path, what, tracked.content(name), repair=repair)


def _disagreements(folder: Path, metadata: pd.DataFrame, members: pd.DataFrame) -> Iterator[Fault]:
    """Yield the inconsistencies between the rows of the two tables."""
    own, used = set(metadata["file_name"]), set(members["file_name"])
    for name in sorted(used - own):
        yield Fault(folder / "members.csv", f"lists {name}, which is missing from metadata.csv")
    for name in sorted(own - used):
        yield Fault(folder / "metadata.csv", f"lists {name}, which is missing from members.csv")
    for name in metadata.loc[metadata["file_name"].duplicated(), "file_name"]:
        yield Fault(folder / "metadata.csv", f"lists {name} twice")


def _named(rows: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Split rows into rows whose image is named by label and key, and all other rows."""
    named: list[Any] = []
    others: list[Any] = []
    for row in rows:
        folder, _, name = row.file_name.partition("/")
        right = name == f"{row.key}.png" and is_slug(folder, row.label)
        (named if right else others).append(row)
    return named, others


def _faults_of_files(
    folder: Path, rows: Iterable[Any], store: Path, tracked: TrackedFolder | None, *, repair: bool
) -> Iterator[Fault]:
    """Yield the faults of the images of a set that are files, and of their copies in the store."""
    for row in rows:
        yield from _faults_of_image(folder, row, store, tracked, repair=repair)


def _faults_of_image(
    folder: Path, row: Any, store: Path, tracked: TrackedFolder | None, *, repair: bool
) -> Iterator[Fault]:
    """Yield the faults of one image of the set, and of its copy in the store."""
    path, stored = inside(folder, row.file_name), store_path(store, row.key)
    content: bytes | None = path.read_bytes() if path.is_file() else None
    what = _fault_of(content, row, tracked)
    if what is not None:
        content = _good_copy(row, store, tracked)
        if repair and content is not None and tracked and row.file_name in tracked.hashes:
            tracked.heal(row.file_name, content)
        yield healed(path, what, content, repair=repair)
    if content is not None and stored.is_file() and stored.read_bytes() != content:
        yield healed(stored, "differs from the image of the set", content, repair=repair)


def _fault_of(content: bytes | None, row: Any, tracked: TrackedFolder | None) -> str | None:
    """Return the fault of an image file, or None if it has no fault; also compare DVC's hash."""
    what = fault_of(content, row)
    if what is None and tracked and content is not None:
        same = tracked.hashes.get(row.file_name) == md5(content)
        return None if same else "is not the file that DVC recorded"
    return what


def _good_copy(row: Any, store: Path, tracked: TrackedFolder | None) -> bytes | None:
    """Return the undamaged image from DVC's cache or the store, or None if there is none."""
    copies = [load_image(store, row.key)]
    if tracked and row.file_name in tracked.hashes:
        copies.insert(0, tracked.content(row.file_name))
    good = (c for c in copies if c is not None and _fault_of(c, row, tracked) is None)
    return next(good, None)


def _strays(folder: Path, names: set[str]) -> Iterator[Fault]:
    for path in sorted(folder.glob("*/*.png")):
        if path.relative_to(folder).as_posix() not in names:
            yield Fault(path, "is not listed in metadata.csv; remove it")
