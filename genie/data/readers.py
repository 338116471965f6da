"""Readers of labelled images: class folders, Parquet, data sets saved by Hugging Face `datasets`.

Every reader returns raw images. Decoding to square RGB and deduplication are the same for all.
"""

import io
import json
import logging
import os
import unicodedata
from collections.abc import Callable, Iterator
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
from genie.data.images import encode_png, image_id, to_square_rgb
from genie.data.prompts import class_name

log = logging.getLogger(__name__)

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
IMAGE_NAMES = ("png", "image", "img")
LABEL_NAMES = ("label", "labels", "class", "fine_label")

Broken = Callable[[pd.DataFrame], object]
"""A callback for the images that cannot be read and are skipped (schema SKIPPED)."""


@dataclass(frozen=True)
class Raw:
    """An undecoded image: its location (for messages), its class, and its bytes or file."""

    where: str
    label: str
    data: bytes | Path


def read_pools(
    path: Path,
    *,
    size: int | None = None,
    broken: Broken | None = None,
    progress: Progress = silent,
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Read images tables (support pool, query pool) from `path`.

    The query pool is None if there is no test split. `path` is a folder with one sub-folder per
    class, a Parquet file, a folder of Parquet files, or a data set saved by `datasets`. Each may be
    divided into `train` and `test` by folders, files, splits or a `split` column. Images are RGB
    and square: the shorter side is resized to `size` (None: kept) and the centre is cropped. Rows
    are sorted by (label, image_id).

    Duplicates are dropped with a warning. Of identical images in one class, one is kept. Identical
    images in different classes are all dropped, because none of their labels can be trusted. Images
    that occur in both splits are dropped from `train`.

    Raise MissingFileError if there is nothing at `path`, and InvalidValueError if it is in none of
    these forms. Without `broken`, images that cannot be read raise a single InvalidValueError. Each
    class needs at least one image that can be read.
    """
    train, test = _raw_pools(path)
    _check_names(_labels(train), None if test is None else _labels(test), path)
    decode = partial(_decode_all, path=path, size=size, broken=broken, progress=progress)
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

    `path` is as in `read_pools`; of several splits, the names are those of `train`. Raise
    MissingFileError if there is nothing at `path`, and InvalidValueError for fewer than two classes
    or a class that only one split has.
    """
    train, test = _label_pools(path)
    _check_names(train, test, path)
    return sorted(train)


def _label_pools(path: Path) -> tuple[set[str], set[str] | None]:
    """Return the labels of the pools that `_raw_pools` returns, without reading images."""
    _require(path)
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        train, test = (part and _saved_labels(part, path) for part in _load_saved(path))
        return train or set(), test
    if _is_pool(path / "train"):
        test = _part_labels(path / "test") if _is_pool(path / "test") else None
        return _part_labels(path / "train"), test
    if files := ([path] if path.is_file() else sorted(path.glob("*.parquet"))):
        return _parquet_label_pools(files, path)
    return _part_labels(path), None


def raw_images(path: Path) -> list[Raw]:
    """Return the images of all splits of the data at `path`, which is as in `read_pools`."""
    train, test = _raw_pools(path)
    return [*train, *(test or [])]


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and its sub-folders, sorted."""
    return sorted(f for f in folder.rglob("*") if _is_image_file(f))


# Finding images


def _raw_pools(path: Path) -> tuple[list[Raw], list[Raw] | None]:
    _require(path)
    if path.is_file():
        return _parquet_pools([path], path)
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _saved_pools(path)
    if _is_pool(path / "train"):
        test = _raw_part(path / "test") if _is_pool(path / "test") else None
        return _raw_part(path / "train"), test
    if files := sorted(path.glob("*.parquet")):
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


def _is_pool(folder: Path) -> bool:
    """Return whether a folder is a pool, not a class: it contains folders or Parquet files."""
    return folder.is_dir() and (bool(_sub_folders(folder)) or any(folder.glob("*.parquet")))


def _raw_part(folder: Path) -> list[Raw]:
    files = sorted(folder.glob("*.parquet"))
    return _parquet_raws(files) if files else _folder_raws(folder)


def _part_labels(folder: Path) -> set[str]:
    files = sorted(folder.glob("*.parquet"))
    return _parquet_labels(files) if files else _labels(_folder_raws(folder))


def _labels(raws: list[Raw]) -> set[str]:
    return {raw.label for raw in raws}


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _folder_raws(folder: Path) -> list[Raw]:
    return [raw for sub_folder in _class_folders(folder) for raw in _class_raws(sub_folder)]


def _class_folders(folder: Path) -> list[Path]:
    classes = _sub_folders(folder)
    if not classes:
        raise InvalidValueError(
            f"must have a sub-folder per class with files ending in {', '.join(ENDINGS)}, or "
            f"Parquet files, but found no images in {folder}",
            argument="path",
        )
    return classes


def _class_raws(folder: Path) -> Iterator[Raw]:
    files = image_files(folder)
    if not files:
        raise InvalidValueError(
            f"must have images in each class folder (files ending in {', '.join(ENDINGS)}), but "
            f"{folder} has none",
            argument="path",
            remedy="add some or remove the folder",
        )
    label = class_name(folder.name)
    if not label.isprintable() and any(0xD800 <= ord(letter) < 0xE000 for letter in label):
        raise InvalidValueError(
            "must have class folders with names in UTF-8",
            argument="path",
            value=str(folder),
            remedy="rename the folder",
        )
    yield from (Raw(str(file), label, file) for file in files)


def _is_image_file(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()


# Parquet and Arrow


def _parquet_pools(files: list[Path], path: Path) -> tuple[list[Raw], list[Raw] | None]:
    """Return the pools of Parquet files.

    Splits are given by file names (`train-*.parquet`) or else by a `split` column. Without either,
    all files are one pool.
    """
    if path.is_dir() and (train := [f for f in files if f.name.startswith("train")]):
        test = [f for f in files if f.name.startswith("test")]
        return _parquet_raws(train), _parquet_raws(test) if test else None
    raws = _parquet_raws(files)
    if not all("split" in pq.read_schema(file).names for file in files):
        return raws, None
    splits = [str(s) for f in files for s in _read_parquet(f)["split"].to_pylist()]
    pools: dict[str, list[Raw]] = {}
    for raw, split in zip(raws, splits, strict=True):
        pools.setdefault(split, []).append(raw)
    if "train" not in pools:
        raise InvalidValueError(
            f"must have rows with 'train' in the column split, but {path} has only {sorted(pools)}",
            argument="path",
        )
    return pools["train"], pools.get("test")


def _parquet_raws(files: list[Path]) -> list[Raw]:
    return [raw for file in files for raw in _arrow_raws(_read_parquet(file), file)]


def _parquet_label_pools(files: list[Path], path: Path) -> tuple[set[str], set[str] | None]:
    """Return the labels of the pools that `_parquet_pools` returns."""
    if path.is_dir() and (train := [f for f in files if f.name.startswith("train")]):
        test = [f for f in files if f.name.startswith("test")]
        return _parquet_labels(train), _parquet_labels(test) if test else None
    if not all("split" in _parquet_columns(file) for file in files):
        return _parquet_labels(files), None
    pools: dict[str, set[str]] = {}
    for file in files:
        table, column = _label_columns(file, "split")
        splits = table["split"].to_pylist()
        for name, split in zip(_label_names(table, column, file), splits, strict=True):
            pools.setdefault(str(split), set()).add(name)
    return pools.get("train", set()), pools.get("test")


def _parquet_labels(files: list[Path]) -> set[str]:
    return {name for f in files for name in _label_names(*_label_columns(f), f)}


def _label_columns(file: Path, *others: str) -> tuple[pa.Table, str]:
    """Read the label column of a Parquet file, and others; return the table and its name."""
    column = _find_column(_parquet_columns(file), LABEL_NAMES, file)
    with _parquet_errors(file):
        return pq.read_table(file, columns=[column, *others]), column


def _parquet_columns(file: Path) -> list[str]:
    with _parquet_errors(file):
        names: list[str] = pq.read_schema(file).names
        return names


def _read_parquet(file: Path) -> pa.Table:
    with _parquet_errors(file):
        return pq.read_table(file)


@contextmanager
def _parquet_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InvalidValueError(
            f"must be a readable Parquet file, but {file} is not ({one_line(error)})",
            argument="path",
        ) from error


def _arrow_raws(table: pa.Table, file: Path) -> list[Raw]:
    """Return the images of an Arrow table.

    The table has a label column and an image column, whose cells are bytes or {bytes, path}.
    """
    columns = table.column_names
    images = table[_find_column(columns, IMAGE_NAMES, file)].to_pylist()
    labels = _label_names(table, _find_column(columns, LABEL_NAMES, file), file)
    return [
        Raw(f"{file} row {row}", label, _cell_data(cell, file, row))
        for row, (label, cell) in enumerate(zip(labels, images, strict=True))
    ]


def _find_column(columns: list[str], names: tuple[str, ...], file: Path) -> str:
    for name in names:
        if name in columns:
            return name
    raise InvalidValueError(
        f"must have a column named {' or '.join(names)}, but {file} has only: {', '.join(columns)}",
        argument="path",
        remedy="rename one",
    )


def _cell_data(cell: Any, file: Path, row: int) -> bytes | Path:
    data = cell.get("bytes") or cell.get("path") if isinstance(cell, dict) else cell
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return inside(file.parent, data)
    raise InvalidValueError(
        f"must have an encoded image in each row, but the image in row {row} of {file} is of type "
        f"{type(data).__name__}",
        argument="path",
    )


def _label_names(table: pa.Table, column: str, file: Path) -> list[str]:
    """Return class names: strings unchanged, integers looked up in the schema's ClassLabel."""
    names = _class_label_names(table, column)
    labels = table[column].to_pylist()
    for row, label in enumerate(labels):
        known = label in range(len(names)) if names else label not in (None, "")
        if not known:
            raise InvalidValueError(
                f"must have a class in each row, but {column} in row {row} of {file} is {label!r}",
                argument="path",
            )
    return [unicodedata.normalize("NFC", names[v] if names else str(v)) for v in labels]


def _class_label_names(table: pa.Table, column: str) -> list[str]:
    metadata = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(column, {})
    return feature.get("names", []) if isinstance(feature, dict) else []


def _saved_pools(path: Path) -> tuple[list[Raw], list[Raw] | None]:
    train, test = _load_saved(path)
    if test is None:
        return _arrow_raws(_as_table(train), path), None
    support = _arrow_raws(_as_table(train), path / "train")
    return support, _arrow_raws(_as_table(test), path / "test")


def _load_saved(path: Path) -> tuple[Any, Any]:
    """Load the splits train and test of a saved data set, or all of it and None without splits."""
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
    return saved["train"], saved.get("test")


def _saved_labels(dataset: Any, path: Path) -> set[str]:
    column = _find_column(dataset.column_names, LABEL_NAMES, path)
    return set(_label_names(_as_table(dataset.select_columns(column)), column, path))


def _as_table(dataset: Any) -> pa.Table:
    table = dataset.with_format("arrow")[:]
    return table.replace_schema_metadata(dataset.features.arrow_schema.metadata)


# Decoding


def _decode_all(
    raws: list[Raw], *, path: Path, size: int | None, broken: Broken | None, progress: Progress
) -> pd.DataFrame:
    """Decode images to an images table with the extra column `where`."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        decoded = threads.map(partial(_decode, size=size), raws)
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
    if lost := sorted({raw.label for raw in raws} - {label for _, label, _, _ in good}):
        raise InvalidValueError(
            f"must have an image of each class, but no image of class {lost[0]!r} in {path} can be "
            "read",
            argument="path",
            remedy="add some or remove the class",
        )
    table = pd.DataFrame(good, columns=[*IMAGES, "where"])
    return table.sort_values(["label", "image_id", "where"], ignore_index=True)


def _decode(raw: Raw, *, size: int | None) -> tuple[str, str, bytes, str] | InvalidValueError:
    """Return (image_id, label, png, where), or the error of an image that cannot be decoded."""
    try:
        rgb = open_square(raw.data, size=size)
    except InvalidValueError as error:
        return error
    return image_id(rgb), raw.label, encode_png(rgb), raw.where


def open_square(data: bytes | Path, *, size: int | None) -> Image.Image:
    """Decode an image and convert it with `to_square_rgb`.

    Raise InvalidValueError if it cannot be decoded; the message has the reason, but not the name of
    the image.
    """
    try:
        data = data.read_bytes() if isinstance(data, Path) else data
        with Image.open(io.BytesIO(data)) as image:
            return to_square_rgb(image, size=size)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidValueError("too many pixels, make it smaller") from None
    except Image.UnidentifiedImageError:
        raise InvalidValueError("not an image") from None
    except Exception as error:  # decoders can raise anything on damaged bytes
        raise InvalidValueError(one_line(error)) from error


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
    """Raise InvalidValueError for fewer than two classes or a class that only one split has."""
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
