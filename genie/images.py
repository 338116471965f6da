"""Readers of labelled images: class folders, Parquet, data sets saved by Hugging Face `datasets`.

Every reader yields raw pictures; one place decodes them to square RGB, one removes duplicates.
"""

import hashlib
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
from urllib.parse import quote, unquote

import imagehash
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from genie.errors import GenieError
from genie.records import IMAGE_COLUMNS, decode_png, encode_png, image_id

logger = logging.getLogger(__name__)

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
IMAGE_NAMES = ("png", "image", "img")
LABEL_NAMES = ("label", "labels", "class", "fine_label")
NEAR_DUPLICATE_BITS = 20  # of 256; copies saved again differ in fewer, other pictures in 60 or more

Wrap = Callable[[list["Raw"]], Iterable["Raw"]]


@dataclass(frozen=True)
class Raw:
    """An undecoded picture: where it stands (for messages), its class, its bytes or its file."""

    where: str
    label: str
    data: bytes | Path


def read_pools(
    path: Path, *, size: int | None = None, wrap: Wrap = iter
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Images tables (support pool, query pool) of `path`; the second is None without a test split.

    `path` is a folder with one sub-folder per class, a Parquet file, a folder of Parquet files, or
    a data set saved by `datasets`; each with or without `train` and `test` (folders, files, splits
    or a `split` column). Pictures are RGB and square: the shorter side is resized to `size`
    (None: kept) and the centre cropped. Rows are sorted by (label, image_id).

    Of equal pictures in one class one is kept; equal pictures under two classes are all dropped,
    for none of their labels can be trusted; a picture of the test split is dropped from the train
    split. Each is logged as a warning. `wrap` goes around the pictures, for a progress bar.
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


def slug(name: str) -> str:
    """Folder name of a class: ASCII, safe on every file system, different for different names.

    Everything but ASCII letters, digits and `_.-~` is percent-encoded (UTF-8), and so is a dot at
    either end; `class_name` is the inverse. A slug beyond 200 characters is cut and ends in
    `%-` and a hash. Names that differ in case alone collide on a case-insensitive file system.
    """
    text = quote(name, safe="", errors="surrogatepass")
    if text.startswith("."):
        text = "%2E" + text[1:]
    if text.endswith("."):
        text = text[:-1] + "%2E"
    if len(text) <= 200:
        return text or "%-"
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
    return f"{text[:160]}%-{digest}"


def class_name(folder_name: str) -> str:
    """Class name of a folder: percent-escapes decoded where they are valid UTF-8, NFC."""
    try:
        name = unquote(folder_name, errors="strict")
    except UnicodeDecodeError:
        name = folder_name
    return unicodedata.normalize("NFC", name)


def to_square_rgb(image: Image.Image, *, size: int | None = None) -> Image.Image:
    """Upright square RGB picture: transparency on white, 16 bits scaled to 8, centre crop.

    The shorter side is resized to `size` (Lanczos), or kept if `size` is None.
    """
    image = _to_rgb(ImageOps.exif_transpose(image))
    side = size or min(image.size)
    if image.size == (side, side):
        return image
    return ImageOps.fit(image, (side, side), method=Image.Resampling.LANCZOS)


def split_queries(
    table: pd.DataFrame, *, fraction: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split off about `fraction` of each class as the query pool: (support, query).

    The choice depends on content and `seed` alone. Near-duplicates within a class (perceptual
    hashes at most `NEAR_DUPLICATE_BITS` of 256 apart, also through a chain) stay on one side.
    """
    if not 0 < fraction < 1:
        raise GenieError(f"data.query_fraction must be between 0 and 1, got {fraction}")
    chosen: set[str] = set()
    for label, rows in table.groupby("label", sort=True):
        groups = _near_duplicates(rows)
        chosen.update(_draw_queries(groups, str(label), fraction=fraction, seed=seed))
    in_query = table["image_id"].isin(chosen)
    return table[~in_query].reset_index(drop=True), table[in_query].reset_index(drop=True)


# Finding pictures


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
    """Whether this is a pool (it holds folders or Parquet files), not a class of this name."""
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
    """Pools by file names (`train-*.parquet`), else by a `split` column, else one pool."""
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
        raise GenieError(f"column split of {path} must say train or test, found {sorted(pools)}")
    return pools["train"], pools.get("test")


def _parquet_raws(files: list[Path]) -> list[Raw]:
    return [raw for file in files for raw in _arrow_raws(_read_parquet(file), file)]


def _read_parquet(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise GenieError(f"{file} is not a readable Parquet file ({_first_line(error)})") from error


def _arrow_raws(table: pa.Table, file: Path) -> list[Raw]:
    """Pictures of an Arrow table with an image column (bytes, or {bytes, path}) and a label."""
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
    """Class names: strings as they are, numbers through the ClassLabel names in the schema."""
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
        raise GenieError(f"data set {path} cannot be read ({_first_line(error)})") from error
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
    """Images table of all pictures, with a column `where`; one error lists all bad ones."""
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
    table = pd.DataFrame(rows, columns=[*IMAGE_COLUMNS, "where"])
    return table.sort_values(["label", "image_id", "where"], ignore_index=True)


def _decode(raw: Raw, *, size: int | None) -> tuple[str, str, bytes, str] | str:
    """(image_id, label, png, where), or what is wrong with the picture."""
    try:
        data = raw.data.read_bytes() if isinstance(raw.data, Path) else raw.data
        with Image.open(io.BytesIO(data)) as image:
            rgb = to_square_rgb(image, size=size)
    except Image.DecompressionBombError:
        return "too many pixels, make it smaller"
    except Image.UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        return _first_line(error)
    return image_id(rgb), raw.label, encode_png(rgb), raw.where


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _sixteen_bit(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _sixteen_bit(image: Image.Image) -> Image.Image:
    """8-bit greyscale of a 16-bit one, 65535 becoming 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} beyond 16 bits, save it with 8 bits")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


# Duplicates


def _drop_duplicates(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Images table without `where`: one row per picture, none that stands under two labels."""
    once = table.drop_duplicates(["label", "image_id"])
    if dropped := len(table) - len(once):
        logger.warning("%s: dropped %d copies of images in the same class", path, dropped)
    torn = once.duplicated("image_id", keep=False)
    if torn.any():
        shown = ", ".join(once[torn].sort_values("image_id")["where"].head(4))
        logger.warning(
            "%s: dropped %d images that stand under several classes: %s%s",
            *(path, int(torn.sum()), shown, ", ..." if torn.sum() > 4 else ""),
        )
    return once.loc[~torn, list(IMAGE_COLUMNS)].reset_index(drop=True)


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


# Near-duplicates


def _near_duplicates(rows: pd.DataFrame) -> list[list[str]]:
    """Groups of image_ids linked by perceptual hashes closer than the threshold."""
    ids = sorted(rows["image_id"])
    png = rows.set_index("image_id")["png"]
    hashes = np.array([_perceptual_hash(png[i]) for i in ids])
    parent = list(range(len(ids)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i in range(1, len(ids)):
        distances = np.bitwise_count(hashes[:i] ^ hashes[i]).sum(axis=1)
        for j in np.flatnonzero(distances <= NEAR_DUPLICATE_BITS):
            parent[root(i)] = root(int(j))
    groups: dict[int, list[str]] = {}
    for i, name in enumerate(ids):
        groups.setdefault(root(i), []).append(name)
    return list(groups.values())


def _perceptual_hash(png: bytes) -> np.ndarray:
    """Discrete cosine hash, 256 bits as uint8 (32,)."""
    return np.packbits(imagehash.phash(decode_png(png), hash_size=16).hash)


def _draw_queries(groups: list[list[str]], label: str, *, fraction: float, seed: int) -> list[str]:
    """About `fraction` of the images, whole groups in an order drawn from content and seed."""
    count = sum(map(len, groups))
    if len(groups) < 2:
        raise GenieError(
            f"class {label!r} cannot be split into support and query: it has {count} images, "
            "all alike; add images or give train/ and test/ folders"
        )
    target = max(1, round(fraction * count))
    groups = sorted(groups, key=lambda g: hashlib.sha256(f"{seed} {min(g)}".encode()).digest())
    chosen: list[str] = []
    for group in groups:
        if len(chosen) + len(group) <= target and len(chosen) + len(group) < count:
            chosen += group
    return chosen or min(groups, key=len)
