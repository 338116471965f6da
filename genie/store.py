"""Content-addressed images on disk: `<root>/ab/<key>.png`.

It lies outside DVC's outputs, so a killed run resumes where it stopped and a new r reuses what an
earlier one rendered. Any number of runs may share one root: a file is complete or absent.
"""

import contextlib
import os
import struct
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from genie.records import Request, encode_png

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WRITERS = 4


def store_path(root: Path, key: str) -> Path:
    """Where the image of a key lies, present or not."""
    return root / key[:2] / f"{key}.png"


def save(root: Path, key: str, png: bytes) -> Path:
    """Write an image under its key, whole or not at all; a full disk is an OSError."""
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


def load(root: Path, key: str) -> bytes | None:
    """PNG bytes of a key, or None if there is no file or it is truncated or corrupt."""
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
) -> dict[str, int]:
    """Render what the store lacks, saving each image as it comes; nothing is rendered twice.

    PNG encoding and writing overlap the rendering. Returns {"needed", "found", "rendered"},
    counted in distinct keys.
    """
    by_key = {key_of(r): r for r in reversed(requests)}
    missing = {key: r for key, r in reversed(by_key.items()) if load(root, key) is None}
    keys = {r: key for key, r in missing.items()}
    pending: deque[Future[Path]] = deque()
    saved = 0

    def settle(allowed: int) -> None:
        nonlocal saved
        while len(pending) > allowed:
            pending.popleft().result()
            saved += 1

    with ThreadPoolExecutor(_WRITERS) as writers, contextlib.ExitStack() as cleanup:
        cleanup.callback(lambda: [future.cancel() for future in pending])
        for request, image in render(list(missing.values())) if missing else ():
            pending.append(writers.submit(_encode_and_save, root, keys[request], image))
            settle(allowed=2 * _WRITERS)
        settle(allowed=0)
    return {"needed": len(by_key), "found": len(by_key) - len(missing), "rendered": saved}


def _encode_and_save(root: Path, key: str, image: Image.Image) -> Path:
    return save(root, key, encode_png(image))


def _is_whole(png: bytes) -> bool:
    """Whether the bytes are PNG chunks with right checksums up to the end mark."""
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
