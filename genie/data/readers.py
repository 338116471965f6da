"""Readers of labelled images: class folders, Parquet, data sets saved by Hugging Face `datasets`.

Every reader returns raw images. Decoding to square RGB and deduplication are the same for all.
"""

import io
import json
import logging
import os
import struct
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from genie.data.images import encode_png, image_id, to_square_rgb
from genie.data.wording import class_name
from genie.errors import GenieError, one_line
from genie.tables import IMAGES

logger = logging.getLogger(__name__)

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
IMAGE_NAMES = ("png", "image", "img")
LABEL_NAMES = ("label", "labels", "class", "fine_label")

Wrap = Callable[[list["Raw"]], Iterable["Raw"]]


@dataclass(frozen=True)
class Raw:
    """An undecoded image: its location (for messages), its class, and its bytes or file."""

    where: str
    label: str
    data: bytes | Path


def read_pools(
    path: Path, *, size: int | None = None, wrap: Wrap = iter
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

    `wrap` wraps the list of raw images, for example in a progress bar.
    """
    train, test = _raw_pools(path)
    support = _drop_duplicates(_decode_all(train, path, size=size, wrap=wrap), path)
    if test is None:
        _check_classes(support, path)
        return support, None
    query = _drop_duplicates(_decode_all(test, path, size=size, wrap=wrap), path)
    support = _drop_shared(support, query, path)
    _check_classes(support, path)
    _check_same_classes(support, query, path)
    return support, query


def class_names(path: Path) -> list[str]:
    """Return the sorted names of the classes in `path`, which is as in `read_pools`.

    No image is decoded.
    """
    train, test = _raw_pools(path)
    return sorted({raw.label for raw in [*train, *(test or [])]})


# Finding images


def _raw_pools(path: Path) -> tuple[list[Raw], list[Raw] | None]:
    if not path.exists():
        raise GenieError(f"data.path {path} does not exist; give a folder or a Parquet file")
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


def _is_pool(folder: Path) -> bool:
    """Return whether a folder is a pool, not a class: it holds folders or Parquet files."""
    return folder.is_dir() and (bool(_sub_folders(folder)) or any(folder.glob("*.parquet")))


def _raw_part(folder: Path) -> list[Raw]:
    files = sorted(folder.glob("*.parquet"))
    return _parquet_raws(files) if files else _folder_raws(folder)


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _folder_raws(folder: Path) -> list[Raw]:
    classes = _sub_folders(folder)
    if not classes:
        raise GenieError(
            f"found no images in {folder}; it must hold one sub-folder per class "
            f"with files ending in {', '.join(ENDINGS)}, or Parquet files"
        )
    return [raw for sub_folder in classes for raw in _class_raws(sub_folder)]


def _class_raws(folder: Path) -> Iterator[Raw]:
    files = sorted(f for f in folder.rglob("*") if _is_image_file(f))
    if not files:
        raise GenieError(
            f"class folder {folder} holds no images (files ending in {', '.join(ENDINGS)}); "
            "add some or remove the folder"
        )
    yield from (Raw(str(file), class_name(folder.name), file) for file in files)


def _is_image_file(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()


# Parquet and Arrow


def _parquet_pools(files: list[Path], path: Path) -> tuple[list[Raw], list[Raw] | None]:
    """Return the pools of Parquet files.

    They are told apart by file names (`train-*.parquet`), else by a `split` column. Without either,
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
        raise GenieError(f"column split of {path} must contain 'train', found {sorted(pools)}")
    return pools["train"], pools.get("test")


def _parquet_raws(files: list[Path]) -> list[Raw]:
    return [raw for file in files for raw in _arrow_raws(_read_parquet(file), file)]


def _read_parquet(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise GenieError(f"{file} is not a readable Parquet file ({one_line(error)})") from error


def _arrow_raws(table: pa.Table, file: Path) -> list[Raw]:
    """Return the images of an Arrow table.

    It has a label column and an image column, whose cells are bytes or {bytes, path}.
    """
    images = table[_find_column(table, IMAGE_NAMES, file)].to_pylist()
    labels = _label_names(table, _find_column(table, LABEL_NAMES, file), file)
    return [
        Raw(f"{file} row {row}", label, _cell_data(cell, file, row))
        for row, (label, cell) in enumerate(zip(labels, images, strict=True))
    ]


def _find_column(table: pa.Table, names: tuple[str, ...], file: Path) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise GenieError(
        f"{file} must have a column named {' or '.join(names)}, "
        f"found only: {', '.join(table.column_names)}; rename one"
    )


def _cell_data(cell: Any, file: Path, row: int) -> bytes | Path:
    data = cell.get("bytes") or cell.get("path") if isinstance(cell, dict) else cell
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return file.parent / data
    raise GenieError(f"{file} row {row} holds no encoded image, got {type(data).__name__}")


def _label_names(table: pa.Table, column: str, file: Path) -> list[str]:
    """Return class names: strings unchanged, integers looked up in the schema's ClassLabel."""
    names = _class_label_names(table, column)
    labels = table[column].to_pylist()
    for row, label in enumerate(labels):
        known = label in range(len(names)) if names else label not in (None, "")
        if not known:
            raise GenieError(f"{file} row {row} has no class: {column} is {label!r}")
    return [unicodedata.normalize("NFC", names[v] if names else str(v)) for v in labels]


def _class_label_names(table: pa.Table, column: str) -> list[str]:
    metadata = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(column, {})
    return feature.get("names", []) if isinstance(feature, dict) else []


def _saved_pools(path: Path) -> tuple[list[Raw], list[Raw] | None]:
    try:
        import datasets
    except ImportError as error:
        raise GenieError(
            f"{path} was saved by the package datasets; install it with `pip install .[hub]`"
        ) from error
    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise GenieError(f"data set {path} cannot be read ({one_line(error)})") from error
    if isinstance(saved, datasets.Dataset):
        return _saved_raws(saved, path), None
    if "train" not in saved:
        raise GenieError(f"data set {path} must have a split 'train', found {sorted(saved)}")
    test = _saved_raws(saved["test"], path / "test") if "test" in saved else None
    return _saved_raws(saved["train"], path / "train"), test


def _saved_raws(dataset: Any, path: Path) -> list[Raw]:
    table = dataset.with_format("arrow")[:]
    table = table.replace_schema_metadata(dataset.features.arrow_schema.metadata)
    return _arrow_raws(table, path)


# Decoding


def _decode_all(raws: list[Raw], path: Path, *, size: int | None, wrap: Wrap) -> pd.DataFrame:
    """Decode all images to an images table with an extra column `where`.

    Raises a single GenieError for all images that cannot be read.
    """
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        decoded = threads.map(partial(_decode, size=size), raws)
        rows = [row for _, row in zip(wrap(raws), decoded, strict=True)]
    bad = [f"{raw.where} ({row})" for raw, row in zip(raws, rows, strict=True) if type(row) is str]
    if bad:
        shown = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise GenieError(
            f"{len(bad)} of {len(raws)} images in {path} cannot be read: {shown}; "
            "repair or remove them"
        )
    table = pd.DataFrame(rows, columns=[*IMAGES, "where"])
    return table.sort_values(["label", "image_id", "where"], ignore_index=True)


def _decode(raw: Raw, *, size: int | None) -> tuple[str, str, bytes, str] | str:
    """Return (image_id, label, png, where), or a message if the image cannot be decoded."""
    try:
        data = raw.data.read_bytes() if isinstance(raw.data, Path) else raw.data
        with Image.open(io.BytesIO(data)) as image:
            rgb = to_square_rgb(image, size=size)
    except Image.DecompressionBombError:
        return "too many pixels, make it smaller"
    except Image.UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        return one_line(error)
    return image_id(rgb), raw.label, encode_png(rgb), raw.where


# Duplicates


def _drop_duplicates(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Drop `where`, duplicate images and images with several labels from an images table."""
    once = table.drop_duplicates(["label", "image_id"])
    if dropped := len(table) - len(once):
        logger.warning("%s: dropped %d copies of images in the same class", path, dropped)
    torn = once.duplicated("image_id", keep=False)
    if torn.any():
        shown = ", ".join(once[torn].sort_values("image_id")["where"].head(4))
        logger.warning(
            "%s: dropped %d images that appear in several classes: %s%s",
            *(path, int(torn.sum()), shown, ", ..." if torn.sum() > 4 else ""),
        )
    return once.loc[~torn, list(IMAGES)].reset_index(drop=True)


def _drop_shared(support: pd.DataFrame, query: pd.DataFrame, path: Path) -> pd.DataFrame:
    shared = support["image_id"].isin(query["image_id"])
    if shared.any():
        logger.warning("%s: dropped %d train images that are also in test", path, shared.sum())
    return support[~shared].reset_index(drop=True)


def _check_classes(table: pd.DataFrame, path: Path) -> None:
    classes = sorted(table["label"].unique())
    if not classes:
        raise GenieError(f"found no images in {path}")
    if len(classes) == 1:
        raise GenieError(f"{path} must have at least 2 classes, found only {classes[0]!r}")


def _check_same_classes(support: pd.DataFrame, query: pd.DataFrame, path: Path) -> None:
    for here, there, table in (("train", "test", query), ("test", "train", support)):
        other = support if table is query else query
        if missing := sorted(set(other["label"]) - set(table["label"])):
            raise GenieError(
                f"{path}: class {missing[0]!r} is in {here} but has no images in {there} "
                f"({len(missing)} such classes); every class must be in both"
            )
