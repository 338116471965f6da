"""Lazy sequences of images, of which only a batch at a time is in memory."""

import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

from PIL import Image


class Pictures(Sequence[Image.Image]):
    """A lazy sequence of images: image i is `load(keys[i])`, loaded on each access."""

    def __init__(self, load: Callable[[Any], Image.Image], keys: Sequence[Any]) -> None:
        self._load = load
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...
    @overload
    def __getitem__(self, place: slice) -> "Pictures": ...
    def __getitem__(self, place: int | slice) -> "Image.Image | Pictures":
        if isinstance(place, slice):
            return Pictures(self._load, self._keys[place])
        return self._load(self._keys[place])


def joined(parts: Iterable[Sequence[Image.Image]]) -> Pictures:
    """Concatenate sequences of images."""
    places = [(part, i) for part in parts for i in range(len(part))]
    return Pictures(lambda place: place[0][place[1]], places)


def spooled(images: Iterable[Image.Image]) -> Pictures:
    """Write images of one size to a temporary file as raw RGB, and return a lazy sequence of them.

    The file is in TMPDIR. It has no name, so the system deletes it when the images are no longer
    used or the process ends.
    """
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    count, size = 0, (0, 0)
    for image in images:
        count, size = count + 1, image.size
        file.write(image.convert("RGB").tobytes())
    length = 3 * size[0] * size[1]

    def load(place: int) -> Image.Image:
        return Image.frombytes("RGB", size, os.pread(file.fileno(), length, place * length))

    weakref.finalize(load, file.close)
    return Pictures(load, range(count))
