"""Parquet shards: many images in few files, in the layout of Hugging Face `datasets`.

Tracking, pushing and copying a set cost time per file, so a large set is quicker in shards.
"""

import json
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from itertools import chain, count, islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from genie.core.errors import InvalidValueError, MissingFileError, one_line

GROUP = 2**20
"""Bytes of images in a row group. Reading one image reads its group, so a group is small."""

_FEATURES = {
    "file_name": {"dtype": "string", "_type": "Value"},
    "label": {"dtype": "string", "_type": "Value"},
    "image": {"_type": "Image"},
}
_SCHEMA = pa.schema(
    {
        "file_name": pa.string(),
        "label": pa.string(),
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    },
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


class ShardRow(NamedTuple):
    """An image of a shard: its file name in the set, its label, and its PNG bytes."""

    file_name: str
    label: str
    png: bytes


class Place(NamedTuple):
    """Where an image is: its file, its row group in the file, and its row in the group."""

    path: Path
    group: int
    row: int


def shard_files(folder: Path) -> list[Path]:
    """Return the shards of a folder, sorted; none if its images are files."""
    return sorted(path for path in folder.glob("*.parquet") if is_shard(path.name))


def is_shard(name: str) -> bool:
    """Return whether a file of the set is a shard, by its name."""
    return fnmatch(name, "images-*.parquet")


def write_shards(rows: Iterable[ShardRow], folder: Path, *, size: int) -> None:
    """Write images-00000.parquet and so on, with `size` images each and the rest in the last.

    The same rows give the same bytes. One row group at a time is in memory.
    """
    remaining = iter(rows)
    for number in count():
        shard = islice(remaining, size)
        first = next(shard, None)
        if first is None:
            return
        _write_shard(chain([first], shard), folder / f"images-{number:05}.parquet")


class Shards:
    """The images of some shards, by file name. One row group and the names are in memory."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read which images the shards have; raises as `add` does."""
        self.places: dict[str, Place] = {}
        self._last: tuple[Path, int, list[bytes]] | None = None
        for path in paths:
            self.add(path)

    def add(self, path: Path) -> None:
        """Read which images a shard has. Raise InvalidValueError if it is damaged."""
        try:
            self.places |= _places_in(path)
        except Exception as error:  # damaged bytes raise anything
            raise InvalidValueError(
                f"must be a Parquet shard of the set, but: {one_line(error)}",
                argument=str(path),
                remedy="run `genie verify --repair`, then `dvc repro`",
            ) from error

    def png(self, name: str) -> bytes:
        """Return the PNG bytes of an image.

        Raise MissingFileError if no shard has it, and what pyarrow raises if it is damaged.
        """
        if name not in self.places:
            raise MissingFileError("no shard has it")
        place, last = self.places[name], self._last
        if last is None or last[:2] != place[:2]:
            last = (place.path, place.group, _group(place.path, place.group))
            self._last = last
        return last[2][place.row]


def _places_in(path: Path) -> dict[str, Place]:
    """Return the place of each image of a shard, by file name."""
    with pq.ParquetFile(path) as file:
        names = file.read(["file_name"])["file_name"].to_pylist()
        lengths = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    rows = ((group, row) for group, length in enumerate(lengths) for row in range(length))
    return {name: Place(path, group, row) for name, (group, row) in zip(names, rows, strict=True)}


def _group(path: Path, number: int) -> list[bytes]:
    """Return the PNG bytes of a row group."""
    with pq.ParquetFile(path) as file:
        table = file.read_row_group(number, ["image.bytes"])
    return [image["bytes"] for image in table["image"].to_pylist()]


def _write_shard(rows: Iterator[ShardRow], path: Path) -> None:
    # PNG is compressed already, and there is nothing to look up by statistics
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(path, _SCHEMA, **options) as writer:
        for group in _grouped(rows):
            columns = [
                {"file_name": r.file_name, "label": r.label, "image": _image(r)} for r in group
            ]
            writer.write_table(pa.Table.from_pylist(columns, _SCHEMA))


def _image(row: ShardRow) -> dict[str, bytes | str]:
    return {"bytes": row.png, "path": row.file_name}


def _grouped(rows: Iterable[ShardRow]) -> Iterator[list[ShardRow]]:
    """Yield rows in groups that end with the image that reaches GROUP bytes."""
    group: list[ShardRow] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row.png)
        if size >= GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
