"""Parquet shards, which store many images in few files, in the layout of Hugging Face `datasets`.

Tracking, pushing and copying have a cost per file, so a large set is faster to handle as shards.
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
"""Bytes of images per row group, small because reading one image reads its whole group."""

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
    """The location of an image: its shard, the row group in the shard, and the row in the group."""

    path: Path
    group: int
    row: int


def shard_files(folder: Path) -> list[Path]:
    """Return the paths of the shards in a folder, sorted; none if its images are files."""
    return sorted(path for path in folder.glob("*.parquet") if is_shard(path.name))


def is_shard(name: str) -> bool:
    """Return whether a file with this name is a shard."""
    return fnmatch(name, "images-*.parquet")


def write_shards(rows: Iterable[ShardRow], folder: Path, *, size: int) -> None:
    """Write images to shards of `size` images, images-00000.parquet and so on.

    The last shard contains the remaining images. The same rows always give the same bytes. Only one
    row group is in memory at a time.
    """
    remaining = iter(rows)
    for number in count():
        shard = islice(remaining, size)
        first = next(shard, None)
        if first is None:
            return
        _write_shard(chain([first], shard), folder / f"images-{number:05}.parquet")


class Shards:
    """Images in shards, read by file name. Only the names and one row group are in memory."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Index the images of the shards; see `add` for errors."""
        self.places: dict[str, Place] = {}
        self._last: tuple[Path, int, list[bytes]] | None = None
        for path in paths:
            self.add(path)

    def add(self, path: Path) -> None:
        """Index the images of a shard. Raise InvalidValueError if it is damaged."""
        try:
            self.places |= _places_in(path)
        except Exception as error:  # readers can raise anything on damaged bytes
            raise InvalidValueError(
                f"must be a Parquet shard of the set, but: {one_line(error)}",
                argument=str(path),
                remedy="run `genie verify --repair`, then `dvc repro`",
            ) from error

    def png(self, name: str) -> bytes:
        """Return the PNG bytes of an image.

        Raise MissingFileError if no shard contains the image, and a pyarrow error if its shard is
        damaged.
        """
        if name not in self.places:
            raise MissingFileError("no shard has it")
        place, last = self.places[name], self._last
        if last is None or last[:2] != place[:2]:
            last = (place.path, place.group, _group(place.path, place.group))
            self._last = last
        return last[2][place.row]


def _places_in(path: Path) -> dict[str, Place]:
    """Return the location of each image in a shard, by file name."""
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
    # PNG is already compressed, and statistics of image bytes are of no use
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
    """Yield groups of rows; a group ends once its images reach a total of GROUP bytes."""
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
