"""Integrity of a set: its files, its tables, what DVC recorded of it, and the store agree.

Images are read one at a time, so memory does not grow with the set.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from genie.data.images import decode_image, image_id
from genie.data.wording import slug
from genie.errors import GenieError
from genie.generate.store import load_image, store_path
from genie.tables import MEMBERS, METADATA, TRAJECTORIES, inside, read_table
from genie.tools.recorded import Recorded, md5, replace_file

TABLES = {"metadata.csv": METADATA, "members.csv": MEMBERS, "trajectories.parquet": TRAJECTORIES}

Watch = Callable[[Iterable[Any], str], Iterable[Any]]
"""Wraps an iterable, given what it is, for example in a progress bar."""


@dataclass(frozen=True)
class Fault:
    """A file that is not what it must be, why, and what was done about it ("" for nothing)."""

    path: Path
    what: str
    done: str = ""


def faults(
    folder: Path,
    *,
    store: Path,
    recorded: Recorded | None,
    repair: bool,
    watch: Watch = lambda items, what: items,
) -> Iterator[Fault]:
    """Yield all faults of a set and of the store; with `repair`, heal each one first.

    A damaged file is replaced by its copy in DVC's cache or in the store. Where there is no good
    copy, it is removed, so that `dvc repro` makes it again. A damaged file of the store is replaced
    by the set's, or removed. With `recorded` None, DVC's hashes are not compared.
    """
    yield from _faults_of_tables(folder, recorded, repair=repair)
    try:
        metadata = read_table(folder / "metadata.csv", METADATA)
        members = read_table(folder / "members.csv", MEMBERS)
    except GenieError as error:
        yield Fault(folder, str(error))
        metadata = members = pd.DataFrame(columns=list(METADATA))
    yield from _disagreements(folder, metadata, members)
    told: set[str] = set()
    for row in watch(list(metadata.itertuples(index=False)), "images of the set"):
        for fault in _faults_of_image(folder, row, store, recorded, repair=repair):
            told.add(fault.path.stem)
            yield fault
    yield from _strays(folder, set(metadata["file_name"]))
    for path in watch(sorted(store.glob("??/*.png")), "images of the store"):
        if load_image(store, path.stem) is None and path.stem not in told:
            yield _removed(path, "is damaged", repair=repair)


def _faults_of_tables(folder: Path, recorded: Recorded | None, *, repair: bool) -> Iterator[Fault]:
    """Yield the files, other than images, that are not those that DVC recorded."""
    for name in sorted(recorded.hashes if recorded else ()):
        path = inside(folder, name)
        if path.suffix == ".png" or not recorded:
            continue
        content = path.read_bytes() if path.is_file() else None
        if content is not None and md5(content) == recorded.hashes[name]:
            continue
        what = "is missing" if content is None else "is not the file that DVC recorded"
        yield _healed(path, what, recorded.content(name), repair=repair)


def _disagreements(folder: Path, metadata: pd.DataFrame, members: pd.DataFrame) -> Iterator[Fault]:
    """Yield the rows of both tables that do not fit together."""
    own, used = set(metadata["file_name"]), set(members["file_name"])
    for name in sorted(used - own):
        yield Fault(folder / "members.csv", f"names {name}, which metadata.csv lacks")
    for name in sorted(own - used):
        yield Fault(folder / "metadata.csv", f"names {name}, which members.csv lacks")
    for name in metadata.loc[metadata["file_name"].duplicated(), "file_name"]:
        yield Fault(folder / "metadata.csv", f"names {name} twice")


def _faults_of_image(
    folder: Path, row: Any, store: Path, recorded: Recorded | None, *, repair: bool
) -> Iterator[Fault]:
    """Yield the faults of one image of the set, and of its copy in the store."""
    if row.file_name != f"{slug(row.label)}/{row.key}.png":
        yield Fault(folder / "metadata.csv", f"{row.file_name} must be named by label and key")
        return
    path, stored = inside(folder, row.file_name), store_path(store, row.key)
    content: bytes | None = path.read_bytes() if path.is_file() else None
    what = _fault_of(content, row, recorded)
    if what is not None:
        content = _good_copy(row, store, recorded)
        if repair and content is not None and recorded and row.file_name in recorded.hashes:
            recorded.heal(row.file_name, content)
        yield _healed(path, what, content, repair=repair)
    if content is not None and stored.is_file() and stored.read_bytes() != content:
        yield _healed(stored, "is not the image of the set", content, repair=repair)


def _fault_of(content: bytes | None, row: Any, recorded: Recorded | None) -> str | None:
    """Return what is wrong with the content of an image, or None."""
    if content is None:
        return "is missing"
    try:
        found = image_id(decode_image(content))
    except Exception:  # decoders of damaged bytes raise anything
        return "does not decode"
    if found != row.image_id:
        return "has other pixels than metadata.csv says"
    if recorded and recorded.hashes.get(row.file_name) != md5(content):
        return "is not the file that DVC recorded"
    return None


def _good_copy(row: Any, store: Path, recorded: Recorded | None) -> bytes | None:
    """Return the image from DVC's cache or the store, if one of them has it without fault."""
    copies = [load_image(store, row.key)]
    if recorded and row.file_name in recorded.hashes:
        copies.insert(0, recorded.content(row.file_name))
    good = (c for c in copies if c is not None and _fault_of(c, row, recorded) is None)
    return next(good, None)


def _strays(folder: Path, names: set[str]) -> Iterator[Fault]:
    for path in sorted(folder.glob("*/*.png")):
        if path.relative_to(folder).as_posix() not in names:
            yield Fault(path, "is in no row of metadata.csv; remove it")


def _healed(path: Path, what: str, content: bytes | None, *, repair: bool) -> Fault:
    if content is None:
        return _removed(path, what, repair=repair)
    if not repair:
        return Fault(path, what)
    replace_file(path, content)
    return Fault(path, what, "put back")


def _removed(path: Path, what: str, *, repair: bool) -> Fault:
    if not repair:
        return Fault(path, what)
    path.unlink(missing_ok=True)
    return Fault(path, what, "removed, `dvc repro` makes it again")
