"""Readers of labelled images in class folders, Parquet files and data sets saved by `datasets`.

Every reader returns raw images, which are then decoded to square RGB and deduplicated in the same
way.
"""

import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from genie.core.errors import FailedError, InvalidValueError, MissingFileError, one_line
from genie.core.progress import Progress, silent
from genie.core.tables import IMAGES, SKIPPED, inside
from genie.data.depth import common_depth
from genie.data.folders import (
    LABEL_NAMES,
    find_splits,
    has_images,
    labelled_files,
    read_file,
    split_of,
    sub_folders,
)
from genie.data.images import Crop, encode_png, image_id, square_of_file

log = logging.getLogger(__name__)

IMAGE_NAMES = ("png", "image", "img")

Broken = Callable[[pd.DataFrame], object]
"""A callback that receives the skipped images, which cannot be read (schema SKIPPED)."""

Deep = Callable[[int], object]
"""A callback that receives the depth of images with more than 8 bits (see `genie.data.depth`)."""


@dataclass(frozen=True)
class Raw:
    """An undecoded image: its location (for messages), its class, and its bytes or file.

    `data` is an error if there is no image or no class; `label` is "" if there is no class.
    """

    where: str
    label: str
    data: bytes | Path | InvalidValueError


def read_pools(
    path: Path,
    *,
    size: int | None = None,
    crop: Crop = "centre",
    broken: Broken | None = None,
    deep: Deep | None = None,
    progress: Progress = silent,
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Read the support pool and the query pool from `path`, as tables of images.

    The query pool is None if there is no test split. `path` is a folder with one sub-folder per
    class, a Parquet file, a folder of Parquet files, or a data set saved by `datasets`. Each may be
    divided into `train` and `test` by folders (see `find_splits`), files, splits or a `split`
    column. Files that are left out are logged (see `labelled_files`). Images are converted to
    square RGB (see `to_square_rgb` for `size` and `crop`). Rows are sorted by (label, image_id).

    Duplicates are dropped with a warning. One of several identical images in a class is kept.
    Identical images in different classes are all dropped, because none of their labels can be
    trusted. Images that occur in both splits are dropped from `train`.

    If files with more than 8 bits per sample do not state their depth, they are all read at the
    same depth, the smallest that holds all of them. `deep` is called with this depth.

    Raise MissingFileError if `path` does not exist, and InvalidValueError if it is in none of these
    forms. Without `broken`, a single InvalidValueError lists the images that cannot be read. Each
    class needs at least one image that can be read.
    """
    train, test = _raw_pools(path)
    raws = [*train, *(test or [])]
    if broken is None:
        _check_rows(raws)
    _check_names(_names(train), None if test is None else _names(test), path)
    sources = (raw.data for raw in raws if not isinstance(raw.data, InvalidValueError))
    depth = common_depth(sources, path)
    if depth is not None and deep is not None:
        deep(depth)
    decode = partial(
        _decode_all,
        path=path,
        decode=partial(_decode, size=size, crop=crop, depth=depth),
        broken=broken,
        progress=progress,
    )
    support = drop_duplicates(decode(train), path)
    if test is None:
        _check_names(set(support["label"]), None, path)
        return support, None
    query = drop_duplicates(decode(test), path)
    support = _drop_shared(support, query, path)
    _check_names(set(support["label"]), set(query["label"]), path)
    return support, query


def read_class_names(path: Path) -> list[str]:
    """Return the sorted class names of the data at `path`, without reading images.

    `path` is as in `read_pools`; if there are several splits, the names are read from `train`.
    Raise MissingFileError if `path` does not exist, and InvalidValueError if there are fewer than
    two classes, or if only one split contains a class.
    """
    train, test = _label_pools(path)
    _check_names(train, test, path)
    return sorted(train)


def _label_pools(path: Path) -> tuple[set[str], set[str] | None]:
    """Return the labels of the pools that `_raw_pools` returns, without reading images."""
    _require(path)
    path = _tables_of_clone(path)
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        train, test = _load_saved(path)
        return _saved_labels(train, path), None if test is None else _saved_labels(test, path)
    if path.is_dir() and (splits := find_splits(path)):
        query = _part_labels(splits.query) if splits.query else None
        return _part_labels(splits.train), query
    if files := ([path] if path.is_file() else sorted(path.glob("*.parquet"))):
        return _parquet_label_pools(files, path)
    return _part_labels(path), None


def raw_images(path: Path) -> list[Raw]:
    """Return the images in all splits of the data at `path` (see `read_pools`)."""
    train, test = _raw_pools(path)
    return [*train, *(test or [])]


# Finding images


def _raw_pools(path: Path) -> tuple[list[Raw], list[Raw] | None]:
    _require(path)
    path = _tables_of_clone(path)
    if path.is_file():
        return _parquet_pools([path], path)
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _saved_pools(path)
    if splits := find_splits(path):
        for note in splits.notes:
            log.warning("%s: %s", path, note)
        return _raw_part(splits.train), _raw_part(splits.query) if splits.query else None
    if files := sorted(path.glob("*.parquet")):
        _report_folders(path)
        return _parquet_pools(files, path)
    return _folder_raws(path), None


def _require(path: Path) -> None:
    if not path.exists():
        raise MissingFileError(
            "must be an existing image folder, Parquet file or saved data set",
            argument="path",
            value=str(path),
            remedy="give a folder or a Parquet file",
        )


def _raw_part(folder: Path) -> list[Raw]:
    if files := sorted(folder.glob("*.parquet")):
        _report_folders(folder)
        return _parquet_raws(files)
    return _folder_raws(folder)


def _report_folders(folder: Path) -> None:
    if beside := [place.name for place in sub_folders(folder) if has_images(place)]:
        log.warning(
            "%s: Parquet files are read, and of the folders beside them (%s) only what they name",
            folder,
            ", ".join(beside[:4]) + (", ..." if len(beside) > 4 else ""),
        )


def _part_labels(folder: Path) -> set[str]:
    files = sorted(folder.glob("*.parquet"))
    return _parquet_labels(files) if files else set(labelled_files(folder)[0].values())


def _names(raws: list[Raw]) -> set[str]:
    return {raw.label for raw in raws} - {""}  # of rows without a label


def _folder_raws(folder: Path) -> list[Raw]:
    labels, notes = labelled_files(folder)
    for note in notes:
        log.warning("%s: %s", folder, note)
    return [Raw(str(file), label, file) for file, label in labels.items()]


# Parquet and Arrow


def _tables_of_clone(path: Path) -> Path:
    """Return the sub-folder of a hub clone that contains the Parquet files, or the path itself.

    The sub-folder is `data` or has the name of a configuration. Raise InvalidValueError if there
    are several, or if there are also class folders.
    """
    if not path.is_dir() or any(path.glob("*.parquet")) or find_splits(path):
        return path
    folders = sub_folders(path)
    tables = [f for f in folders if any(f.glob("*.parquet")) and not has_images(f)]
    if not tables:
        return path
    if others := [f for f in folders if f != tables[0] and (f in tables or has_images(f))]:
        raise InvalidValueError(
            f"must be one data set, but {path} has Parquet files in {tables[0].name} and other "
            f"images in {', '.join(folder.name for folder in others)}",
            argument="path",
            remedy=f"give one of them, such as {tables[0]}",
        )
    return tables[0]


def _parquet_pools(files: list[Path], path: Path) -> tuple[list[Raw], list[Raw] | None]:
    """Return the pools in Parquet files.

    Splits are read from the file names (`train-*.parquet`), or else from a `split` column. Without
    either, all files form one pool.
    """
    splits = _by_split(files) if path.is_dir() else {}
    if "train" in splits:
        query = _query_split(splits, path)
        return _parquet_raws(splits["train"]), _parquet_raws(splits[query]) if query else None
    if len(splits) > 1:
        names = ", ".join(sorted(name or "others" for name in splits))
        raise InvalidValueError(
            f"must have files train-*.parquet beside those of other splits, but {path} has only "
            f"{names}",
            argument="path",
            remedy="rename the files, or give one of them",
        )
    divided = [file for file in files if "split" in _parquet_schema(file).names]
    if not divided:
        return _parquet_raws(files), None
    if whole := sorted(set(files) - set(divided)):
        raise InvalidValueError(
            f"must have the column split in all files or in none, but {whole[0]} has none",
            argument="path",
            remedy="add it or move the file away",
        )
    return _pools_by_column(files, path)


def _pools_by_column(files: list[Path], path: Path) -> tuple[list[Raw], list[Raw] | None]:
    splits = [str(s) for f in files for s in _read_parquet(f)["split"].to_pylist()]
    pools: dict[str, list[Raw]] = {}
    for raw, split in zip(_parquet_raws(files), splits, strict=True):
        pools.setdefault(split_of(split) or split, []).append(raw)
    if "train" not in pools:
        raise InvalidValueError(
            f"must have rows with 'train' in the column split, but {path} has only {sorted(pools)}",
            argument="path",
        )
    query = _query_split(pools, path)
    return pools["train"], pools[query] if query else None


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    """Group files by the split in their names, as `datasets` does; "" means no split."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        begins = (s for s in ("train", "test") if file.name.startswith(s))
        splits.setdefault(next(begins, None) or split_of(file.stem) or "", []).append(file)
    return splits


def _query_of(splits: Container[str]) -> str | None:
    return next((name for name in ("test", "validation") if name in splits), None)


def _query_split(splits: Iterable[str], path: Path) -> str | None:
    """Return the name of the query split, or None; warn about splits that are not read."""
    names = set(splits)
    query = _query_of(names)
    if query == "validation":
        log.warning("%s: no test split, so queries are from the split validation", path)
    if unread := sorted(names - {"train", query}):
        named = (name or "files without the name of a split" for name in unread)
        log.warning("%s: left out: %s", path, ", ".join(named))
    return query


def _parquet_raws(files: list[Path]) -> list[Raw]:
    _say_taken(_parquet_schema(files[0]), files[0])
    return [raw for file in files for raw in _arrow_raws(_read_parquet(file), file, file.parent)]


def _parquet_label_pools(files: list[Path], path: Path) -> tuple[set[str], set[str] | None]:
    """Return the labels of the pools that `_parquet_pools` returns."""
    splits = _by_split(files) if path.is_dir() else {}
    if "train" in splits:
        query = _query_of(splits)
        return _parquet_labels(splits["train"]), _parquet_labels(splits[query]) if query else None
    if not all("split" in _parquet_schema(file).names for file in files):
        return _parquet_labels(files), None
    pools: dict[str, set[str]] = {}
    for file in files:
        table, column = _label_columns(file, "split")
        names = map(str, table["split"].to_pylist())
        for label, name in zip(_labels(table, column, file), names, strict=True):
            pools.setdefault(split_of(name) or name, set()).update({label} if label else ())
    query = _query_of(pools)
    return pools.get("train", set()), pools[query] if query else None


def _parquet_labels(files: list[Path]) -> set[str]:
    return {name for file in files for name in _known_labels(*_label_columns(file), file)}


def _label_columns(file: Path, *others: str) -> tuple[pa.Table, str]:
    """Read the label and other columns of a Parquet file; return the table and the label's name."""
    column = _label_column(_parquet_schema(file), file)
    with _parquet_errors(file):
        return pq.read_table(file, columns=[column, *others]), column


def _read_parquet(file: Path) -> pa.Table:
    with _parquet_errors(file):
        return pq.read_table(file)


def _parquet_schema(file: Path) -> pa.Schema:
    with _parquet_errors(file):
        return pq.read_schema(file)


@contextmanager
def _parquet_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        with file.open("rb") as content:
            pointer = content.read(20).startswith(b"version https://git")
        raise InvalidValueError(
            f"must be a readable Parquet file, but {file} is not ({one_line(error)})",
            argument="path",
            remedy="run `git lfs pull` in its folder" if pointer else "",
        ) from error


def _arrow_raws(table: pa.Table, file: Path, folder: Path) -> list[Raw]:
    """Return the images of an Arrow table.

    The table has a column of labels and a column of images, which are bytes, {bytes, path} or the
    names of files in `folder`. If a row has no label or no image, `data` is an error with the
    reason.
    """
    column, label_column = _image_column(table.schema, file), _label_column(table.schema, file)
    labels = _labels(table, label_column, file)
    raws = []
    for row, (label, cell) in enumerate(zip(labels, _cells(table, column, file), strict=True)):
        data = _cell_data(cell, f"{column} in row {row} of {file}", folder)
        if label is None:
            value = table[label_column][row].as_py()
            data = InvalidValueError(f"{label_column} in row {row} of {file} is {value!r}")
        raws.append(Raw(f"{file} row {row}", label or "", data))
    if named := sum(isinstance(raw.data, Path) for raw in raws):
        log.info("%s: %d images are the files in %s that %s names", file, named, folder, column)
    return raws


def _image_column(schema: pa.Schema, file: Path) -> str:
    return _column(schema, IMAGE_NAMES, _images(schema), file)


def _label_column(schema: pa.Schema, file: Path) -> str:
    return _column(schema, LABEL_NAMES, _class_labels(schema), file)


def _column(schema: pa.Schema, names: tuple[str, ...], typed: list[str], file: Path) -> str:
    """Return the first column with one of the names, or else the first of the right type."""
    columns = schema.names
    found = [name for name in names if name in columns] or typed
    if not found:
        raise InvalidValueError(
            f"must have a column named {' or '.join(names)}, but {file} has only: "
            f"{', '.join(columns)}",
            argument="path",
            remedy="rename one",
        )
    if columns.count(found[0]) > 1:
        raise InvalidValueError(
            f"must have one column of each name, but {file} has several named {found[0]}",
            argument="path",
            remedy="rename or drop one",
        )
    return found[0]


def _say_taken(schema: pa.Schema, file: Path) -> None:
    """Warn if there are several columns of images or labels, and name the column that is read."""
    for what, names, typed in (
        ("images", IMAGE_NAMES, _images(schema)),
        ("labels", LABEL_NAMES, _class_labels(schema)),
    ):
        taken = _column(schema, names, typed, file)
        named = [name for name in names if name in schema.names]
        if others := sorted({*named, *typed} - {taken}):
            log.warning(
                "%s: %s are those of the column %s, and not of %s",
                file,
                what,
                taken,
                ", ".join(others),
            )


def _images(schema: pa.Schema) -> list[str]:
    """Return the columns that `datasets` marks as images, or whose cells are {bytes, path}."""
    features = _features(schema)
    return [
        field.name
        for field in schema
        if features.get(field.name, {}).get("_type") == "Image"
        or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]


def _class_labels(schema: pa.Schema) -> list[str]:
    features = _features(schema)
    return [n for n in schema.names if features.get(n, {}).get("_type") == "ClassLabel"]


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return the features that `datasets` wrote, by column; return {} if they are malformed."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = found["info"]["features"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: feature for name, feature in features if isinstance(feature, dict)}


def _cells(table: pa.Table, column: str, file: Path) -> list[Any]:
    try:
        return table[column].to_pylist()
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"must have text in UTF-8, but the column {column} of {file} has not", argument="path"
        ) from error


def _cell_data(cell: Any, where: str, folder: Path) -> bytes | Path | InvalidValueError:
    data = cell.get("bytes") or cell.get("path") if isinstance(cell, dict) else cell
    if data is None:
        return InvalidValueError(f"{where} is {'null' if cell is None else 'empty'}")
    if isinstance(data, bytes):
        return data
    if not isinstance(data, str):
        raise InvalidValueError(
            f"must have an encoded image in each row, but {where} is of type {type(data).__name__}",
            argument="path",
        )
    if _is_encoded(data, folder):
        raise InvalidValueError(
            f"must have images as bytes or names of files, but {where} is text in base64",
            argument="path",
            value=data,
            remedy="decode it with base64.b64decode",
        )
    try:
        return inside(folder, data)
    except InvalidValueError:
        raise InvalidValueError(
            f"must name files inside {folder}, but {where} does not",
            argument="path",
            value=data,
            remedy="move the files there and write relative paths, or write bytes",
        ) from None


def _is_encoded(text: str, folder: Path) -> bool:
    """Return whether a text looks like a base64 image rather than a file name.

    That is a data URI, the start of a PNG, JPEG, GIF or WebP file in base64, or any long base64
    text that is not a path in `folder`.
    """
    if text.startswith(("data:", "iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")):
        return True
    long = len(text) > 100 and re.fullmatch(r"[\w+/\s-]+={0,2}", text, re.ASCII) is not None
    return long and not os.path.exists(folder / text)


def _labels(table: pa.Table, column: str, file: Path) -> list[str | None]:
    """Return class names; integers are looked up in the schema's ClassLabel.

    A row without a label gives None. Raise InvalidValueError if a cell contains several values, or
    a value of another type.
    """
    kind = table.schema.field(column).type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise InvalidValueError(
            f"must have one class per image, as text or number, but the column {column} of {file} "
            f"is of type {kind}",
            argument="path",
            remedy="write one text or number per image",
        )
    names = _features(table.schema).get(column, {}).get("names") or []
    return [_name_of(label, names) for label in _cells(table, column, file)]


def _name_of(label: Any, names: list[str]) -> str | None:
    if names:
        name = names[int(label)] if label in range(len(names)) else None
    else:
        name = None if label in (None, "") or label != label else str(label)  # NaN is not itself
    return None if name is None else unicodedata.normalize("NFC", name)


def _known_labels(table: pa.Table, column: str, file: Path) -> list[str]:
    return [name for name in _labels(table, column, file) if name is not None]


def _saved_pools(path: Path) -> tuple[list[Raw], list[Raw] | None]:
    train, test = _load_saved(path)
    _say_taken(train.features.arrow_schema, path)
    if test is None:
        return _arrow_raws(_as_table(train), path, path), None
    support = _arrow_raws(_as_table(train), path / "train", path)
    return support, _arrow_raws(_as_table(test), path / "test", path)


def _load_saved(path: Path) -> tuple[Any, Any]:
    """Load the support and query splits of a saved data set; the query split may be None."""
    try:
        import datasets
    except ImportError as error:
        raise FailedError(
            f"{path} was saved by the package datasets, which is not installed",
            remedy="install it with `pip install .[hub]`",
        ) from error
    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InvalidValueError(
            f"must be a readable data set, but {path} is not ({one_line(error)})",
            argument="path",
        ) from error
    if isinstance(saved, datasets.Dataset):
        return saved, None
    if "train" not in saved:
        raise InvalidValueError(
            f"must have a split 'train', but {path} has only {sorted(saved)}", argument="path"
        )
    query = _query_split(saved, path)
    return saved["train"], saved[query] if query else None


def _saved_labels(dataset: Any, path: Path) -> set[str]:
    column = _label_column(dataset.features.arrow_schema, path)
    return set(_known_labels(_as_table(dataset.select_columns(column)), column, path))


def _as_table(dataset: Any) -> pa.Table:
    table = dataset.with_format("arrow")[:]
    return table.replace_schema_metadata(dataset.features.arrow_schema.metadata)


def _check_rows(raws: list[Raw]) -> None:
    absent = [raw for raw in raws if isinstance(raw.data, InvalidValueError)]
    if absent:
        what = "an encoded image" if absent[0].label else "a class"
        more = f" (and {len(absent) - 1} more rows lack one)" if len(absent) > 1 else ""
        raise InvalidValueError(
            f"must have {what} in each row, but {absent[0].data!s}{more}",
            argument="path",
            remedy="repair or remove the rows, or set `broken` to skip",
        )


# Decoding

Decoded = tuple[str, str, bytes, str] | InvalidValueError
"""The (image_id, label, png, where) of an image, or the error if it cannot be decoded."""


def _decode_all(
    raws: list[Raw],
    *,
    path: Path,
    decode: Callable[[Raw], Decoded],
    broken: Broken | None,
    progress: Progress,
) -> pd.DataFrame:
    """Decode images to a table of images with the extra column `where`."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        decoded = threads.map(decode, raws)
        try:
            shown = progress(raws, "reading images", total=len(raws), unit="image")
            rows = list(zip(shown, decoded, strict=True))
        finally:
            threads.shutdown(cancel_futures=True)  # on an interrupt by the user
    bad = [(raw.where, raw.label, str(row)) for raw, row in rows if isinstance(row, Exception)]
    if bad and broken is None:
        first = ", ".join(f"{where} ({why})" for where, _, why in bad[:5])
        raise InvalidValueError(
            f"must have only images that can be read, but {len(bad)} of {len(raws)} images in "
            f"{path} cannot: {first}{', ...' if len(bad) > 5 else ''}",
            argument="path",
            remedy="repair or remove them, or set `broken` to skip",
        )
    if bad and broken is not None:
        broken(pd.DataFrame(bad, columns=list(SKIPPED)))
    good = [row for _, row in rows if not isinstance(row, Exception)]
    if lost := sorted({raw.label for raw in raws} - {label for _, label, _, _ in good} - {""}):
        raise InvalidValueError(
            f"must have an image of each class, but no image of class {lost[0]!r} in {path} can be "
            "read",
            argument="path",
            remedy="add some or remove the class",
        )
    table = pd.DataFrame(good, columns=[*IMAGES, "where"])
    return table.sort_values(["label", "image_id", "where"], ignore_index=True)


def _decode(raw: Raw, *, size: int | None, crop: Crop, depth: int | None) -> Decoded:
    """Decode an image."""
    if isinstance(raw.data, InvalidValueError):
        return raw.data
    try:
        rgb = open_square(raw.data, size=size, crop=crop, depth=depth)
    except InvalidValueError as error:
        return error
    return image_id(rgb), raw.label, encode_png(rgb), raw.where


def open_square(
    data: bytes | Path, *, size: int | None, crop: Crop = "centre", depth: int | None = None
) -> Image.Image:
    """Decode an image and convert it with `square_of_file`.

    Raise InvalidValueError if the image cannot be decoded; the message gives the reason, but not
    the name of the image.
    """
    try:
        data = read_file(data) if isinstance(data, Path) else data
        return square_of_file(data, size=size, crop=crop, depth=depth)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidValueError("too many pixels, make it smaller") from None
    except Image.UnidentifiedImageError:
        raise InvalidValueError("not an image") from None
    except Exception as error:  # decoders can raise anything on damaged bytes
        raise InvalidValueError(_short(one_line(error))) from error


def _short(text: str) -> str:
    """Shorten a reason that quotes the content of a cell."""
    return text if len(text) <= 300 else f"{text[:200]}...{text[-50:]}"


# Duplicates


def drop_duplicates(table: pd.DataFrame, origin: object) -> pd.DataFrame:
    """Drop duplicate images, images with several labels, and the column `where`.

    Warnings begin with `origin`, which names the data.
    """
    once = table.drop_duplicates(["label", "image_id"])
    if dropped := len(table) - len(once):
        log.warning("%s: dropped %d duplicate images within their class", origin, dropped)
    ambiguous = once.duplicated("image_id", keep=False)
    if count := int(ambiguous.sum()):
        shown = ", ".join(once[ambiguous].sort_values("image_id")["where"].head(4))
        more = ", ..." if count > 4 else ""
        log.warning(
            "%s: dropped %d images that appear in several classes: %s%s", origin, count, shown, more
        )
    return once.loc[~ambiguous, list(IMAGES)].reset_index(drop=True)


def _drop_shared(support: pd.DataFrame, query: pd.DataFrame, path: Path) -> pd.DataFrame:
    shared = support["image_id"].isin(query["image_id"])
    if shared.any():
        log.warning("%s: dropped %d train images that are also in test", path, shared.sum())
    return support[~shared].reset_index(drop=True)


def _check_names(train: set[str], test: set[str] | None, path: Path) -> None:
    """Raise InvalidValueError for fewer than two classes, or for a class in only one split."""
    if not train:
        raise InvalidValueError(f"must have images, but found none in {path}", argument="path")
    for here, there, only in (
        ("train", "test", train - (train if test is None else test)),
        ("test", "train", (test or set()) - train),
    ):
        if only:
            raise InvalidValueError(
                f"must have each class in both splits, but in {path} class {min(only)!r} is in "
                f"{here} but has no images in {there} ({len(only)} such classes)",
                argument="path",
                remedy="add images or remove the class",
            )
    if len(train) == 1:
        raise InvalidValueError(
            f"must have at least 2 classes, but {path} has only {min(train)!r}", argument="path"
        )
