"""The image store: a content-addressed cache on disk, `<root>/ab/<key>.png`.

The store is not an output of DVC. An interrupted run therefore resumes where it stopped, and a run
with another r reuses earlier images. Files are written atomically, so several runs can share one
store.
"""

import contextlib
import os
import struct
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from genie.data.images import encode_png
from genie.generate.request import Request

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WRITERS = 4


@dataclass(frozen=True)
class Counts:
    """Numbers of distinct images: needed, found in the store, and rendered."""

    needed: int
    found: int
    rendered: int


def store_path(root: Path, key: str) -> Path:
    """Return the path of a key's image, whether or not it exists."""
    return root / key[:2] / f"{key}.png"


def save_image(root: Path, key: str, png: bytes) -> Path:
    """Write an image under its key atomically; raise OSError if the disk is full."""
    path = store_path(root, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{key[:8]}-", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(png)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def load_image(root: Path, key: str) -> bytes | None:
    """Return the PNG bytes of a key, or None if the file is missing, truncated or corrupt."""
    try:
        png = store_path(root, key).read_bytes()
    except FileNotFoundError:
        return None
    return png if _is_whole(png) else None


def ensure(
    requests: Sequence[Request],
    *,
    root: Path,
    key_of: Callable[[Request], str],
    render: Callable[[Sequence[Request]], Iterator[tuple[Request, Image.Image]]],
) -> Counts:
    """Render the images that the store lacks, and save each one as soon as it is rendered.

    Requests with the same key are rendered once. PNG encoding and writing run in parallel with
    rendering.
    """
    by_key = {key_of(r): r for r in reversed(requests)}
    missing = {key: r for key, r in reversed(by_key.items()) if load_image(root, key) is None}
    keys = {r: key for key, r in missing.items()}
    pending: deque[Future[Path]] = deque()
    saved = 0

    def wait(allowed: int) -> None:
        nonlocal saved
        while len(pending) > allowed:
            pending.popleft().result()
            saved += 1

    with ThreadPoolExecutor(_WRITERS) as writers, contextlib.ExitStack() as cleanup:
        cleanup.callback(lambda: [future.cancel() for future in pending])
        for request, image in render(list(missing.values())) if missing else ():
            pending.append(writers.submit(_encode_and_save, root, keys[request], image))
            wait(allowed=2 * _WRITERS)
        wait(allowed=0)
    return Counts(needed=len(by_key), found=len(by_key) - len(missing), rendered=saved)


def _encode_and_save(root: Path, key: str, image: Image.Image) -> Path:
    return save_image(root, key, encode_png(image))


def _is_whole(png: bytes) -> bool:
    """Return whether the bytes are PNG chunks with valid checksums, including the end chunk."""
    if not png.startswith(_SIGNATURE):
        return False
    start = len(_SIGNATURE)
    while start + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, start)
        end = start + 12 + length
        if end > len(png):
            return False
        (checksum,) = struct.unpack_from(">I", png, end - 4)
        if zlib.crc32(png[start + 4 : end - 4]) != checksum:
            return False
        if png[start + 4 : start + 8] == b"IEND":
            return True
        start = end
    return False
