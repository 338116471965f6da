"""Thumbnails of all levels, so that figures can be drawn without the image store."""

import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIDE = 96  # pixels at most
QUALITY = 90  # of WebP
_AT_ONCE = 1000

_SCHEMA = pa.schema([("key", pa.string()), ("webp", pa.binary())])


def thumbnail(image: Image.Image) -> bytes:
    """Encode the image as WebP, shrunk to at most SIDE x SIDE pixels."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=QUALITY)
    return buffer.getvalue()


def write_thumbnails(
    keys: Iterable[str], path: Path, *, picture_of: Callable[[str], Image.Image]
) -> None:
    """Write a Parquet file with the thumbnail of each distinct key (schema THUMBNAILS)."""
    names = sorted(set(keys))
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = partial(_drawn, picture_of)
    with ThreadPoolExecutor(os.cpu_count()) as threads, pq.ParquetWriter(path, _SCHEMA) as writer:
        for start in range(0, len(names), _AT_ONCE):  # bounds the memory
            part = names[start : start + _AT_ONCE]
            rows = {"key": part, "webp": list(threads.map(draw, part))}
            writer.write_table(pa.table(rows, schema=_SCHEMA))


def _drawn(picture_of: Callable[[str], Image.Image], key: str) -> bytes:
    return thumbnail(picture_of(key))
