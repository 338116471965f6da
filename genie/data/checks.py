"""A check before a run that images can be read, which is faster than reading all of them."""

import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from genie.core.errors import InvalidValueError
from genie.core.progress import Progress, silent
from genie.data.readers import Raw, open_square, raw_images

DECODED_BYTES = 400e6
"""Maximum size in bytes of the files that are all decoded, about five seconds on one processor."""

LOOKED_AT = 50
"""Number of images that `look_at` decodes."""

COLOURFUL = 8
"""Least mean difference between the strongest and weakest channels of a colour image."""

_LAST = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""The last bytes of complete files by format; zeros or line ends may follow."""


@dataclass(frozen=True)
class Look:
    """Statistics of a sample of images.

    `colour` is the fraction of colour images, `side` is the median shorter side in pixels, and
    `cut` is the mean fraction of an image that lies outside its central square.
    """

    colour: float
    side: float
    cut: float


@dataclass(frozen=True)
class Readable:
    """The result of a check: how many images there are, and which cannot be read.

    `step` is 1 if all images were decoded, 2 if every second was, and so on. `broken` lists the
    (place, reason) of images that cannot be read.
    """

    count: int
    step: int
    look: Look
    broken: Sequence[tuple[str, str]]


def check_images(path: Path, *, progress: Progress = silent) -> Readable:
    """Check the images in the data at `path` (see `read_pools`).

    All images are decoded, JPEG files at a lower resolution. If the files are larger than
    `DECODED_BYTES` in total, only evenly spaced images are decoded, and only the header and the
    last bytes of the others are checked. An image that `read_pools` can read is never reported.
    """
    raws = raw_images(path)
    step = max(1, math.ceil(sum(map(_size, raws)) / DECODED_BYTES))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        reasons = threads.map(partial(_reason, step=step), range(len(raws)), raws)
        try:
            shown = progress(raws, "checking images", total=len(raws), unit="image")
            found = [(raw.where, why) for raw, why in zip(shown, reasons, strict=True) if why]
        finally:
            threads.shutdown(cancel_futures=True)  # on an interrupt by the user
    return Readable(len(raws), step, _look(raws), found)


def look_at(path: Path) -> Look:
    """Decode a sample of the images at `path` (see `read_pools`)."""
    return _look(raw_images(path))


def _look(raws: Sequence[Raw]) -> Look:
    places = np.linspace(0, len(raws), LOOKED_AT, endpoint=False, dtype=int)
    sample = [raws[place] for place in sorted(set(places.tolist()))]
    seen = [found for raw in sample if (found := _seen(raw.data))]
    colour, side, cut = np.array(seen or [(0.0, 0, 0.0)]).T
    return Look(float((colour >= COLOURFUL).mean()), float(np.median(side)), float(cut.mean()))


def _seen(data: bytes | Path | InvalidValueError) -> tuple[float, int, float] | None:
    """Return the strength of colour, the shorter side, and the share outside the central square."""
    if isinstance(data, InvalidValueError):
        return None
    with suppress(Exception):  # decoders can raise anything on damaged bytes
        with Image.open(data if isinstance(data, Path) else io.BytesIO(data)) as image:
            short, long = sorted(image.size)
        pixels = np.asarray(open_square(data, size=64), np.int16)
        return float(np.ptp(pixels, axis=2).mean()), short, 1 - short / long
    return None


def _size(raw: Raw) -> int:
    if isinstance(raw.data, Path):
        return raw.data.stat().st_size if raw.data.is_file() else 0
    return len(raw.data) if isinstance(raw.data, bytes) else 0


def _reason(number: int, raw: Raw, *, step: int) -> str | None:
    """Return the reason why an image cannot be read, or None."""
    if isinstance(raw.data, InvalidValueError):
        return str(raw.data)
    if _seems_good(raw.data, decode=number % step == 0):
        return None
    try:
        open_square(raw.data, size=None)
    except InvalidValueError as error:
        return str(error)
    return None


def _seems_good(data: bytes | Path, *, decode: bool) -> bool:
    with suppress(Exception):  # decoders can raise anything on damaged bytes
        file: BinaryIO = io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")
        with file, Image.open(file) as image:
            last = _LAST.get(str(image.format), b"")
            if decode:
                image.draft(None, (1, 1))
                image.load()
                return not image.mode.startswith(("I", "F"))  # whose values may be out of range
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64))
            return file.read().rstrip(b"\0\r\n ").endswith(last)
    return False
