"""The image store: a content-addressed cache on disk, `<root>/ab/<key>.png`.

The store is not an output of DVC. An interrupted run therefore resumes where it stopped, and a run
with another r reuses earlier images. A file is written under a temporary name, flushed to the disk
and renamed, so it is whole or absent. Several runs can share one store.
"""

import errno
import logging
import os
import struct
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from genie.data.images import encode_png
from genie.generate.claims import Claims, claims
from genie.generate.request import Request
from genie.generate.shared import SharedStore

log = logging.getLogger(__name__)

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WRITERS = 4
_SHARED_WRITERS = 32  # because each waits for the network
_COPIED_AT_ONCE = 256


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
    """Write an image under its key with `write_durably`, and return its path."""
    path = store_path(root, key)
    write_durably(path, png, prefix=f".{key}-")
    return path


def write_durably(path: Path, content: bytes, *, prefix: str, mode: int = 0o644) -> None:
    """Write a file that is whole or absent also after a power cut.

    It is written under a temporary name that starts with `prefix`. Other links to an older file of
    the same name keep its content. Raise OSError with the file's name if it cannot be written, for
    example because the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_image(root: Path, key: str) -> bytes | None:
    """Return the PNG bytes of a key, or None if the file is missing, truncated or corrupt."""
    try:
        png = store_path(root, key).read_bytes()
    except FileNotFoundError:
        return None
    return png if _is_whole(png) else None


Take = Callable[[Sequence[Request]], list[Request]]
"""Called with a batch before it is rendered; returns which of its requests to render."""
Picture = Image.Image | bytes
"""An image, or its PNG bytes if another process has encoded it."""
Render = Callable[[Sequence[Request], Take], Iterator[tuple[Request, Picture]]]


def ensure(
    requests: Sequence[Request],
    *,
    root: Path,
    key_of: Callable[[Request], str],
    render: Render,
    shared: SharedStore | None = None,
    all_at_once: bool = False,
) -> Counts:
    """Render the images that the store lacks, and save each one as soon as it is rendered.

    Images of the `shared` store are copied from it instead, and rendered ones are copied to it.
    `all_at_once` says that `render` takes all batches before it renders the first.

    Requests with the same key are rendered once, also by several runs that share the store: what
    another run is rendering is waited for, and rendered here if that run dies. The images of a
    batch are encoded and written in parallel, before the next batch begins, also when an exception
    ends the rendering. Raise GenieError if images are missing and the store cannot be written.
    """
    by_key = {key_of(r): r for r in reversed(requests)}
    missing = {key: r for key, r in reversed(by_key.items()) if load_image(root, key) is None}
    rendered = 0
    if missing:
        with claims(root, wide=all_at_once) as held:
            sweep(root, held)
            if shared is not None:
                for key in copy_shared(shared, missing, root):
                    del missing[key]
            rendered = _render_missing(missing, root=root, held=held, render=render, shared=shared)
    return Counts(needed=len(by_key), found=len(by_key) - rendered, rendered=rendered)


def sweep(root: Path, held: Claims) -> None:
    """Delete the temporary files of runs that died while they wrote an image."""
    for file in root.glob("*/.*.tmp"):
        key = file.name[1:].rpartition("-")[0]
        if held.take(key):  # a run that writes an image holds its claim
            file.unlink(missing_ok=True)
            held.release(key)


def copy_shared(shared: SharedStore, wanted: Collection[str], root: Path) -> list[str]:
    """Copy wanted images from the shared store, and return their keys; leave damaged ones there."""
    there = sorted(shared.keys() & set(wanted))
    copied = []
    for start in range(0, len(there), _COPIED_AT_ONCE):
        for key, png in shared.read(there[start : start + _COPIED_AT_ONCE]).items():
            if _is_whole(png):
                save_image(root, key, png)
                copied.append(key)
    if there:
        log.info("%d images copied from the shared store %s", len(copied), shared.url)
    return copied


def _render_missing(
    missing: dict[str, Request],
    *,
    root: Path,
    held: Claims,
    render: Render,
    shared: SharedStore | None,
) -> int:
    """Render each image unless another run does, and return how many were rendered here."""
    rendered = 0
    while missing:
        saved = _render_unclaimed(missing, root=root, held=held, render=render, shared=shared)
        rendered += len(saved)
        missing = {
            key: request
            for key, request in missing.items()
            if key not in saved and load_image(root, key) is None
        }
        if missing:
            log.info("waiting for %d images that another run is rendering", len(missing))
            held.wait(next(iter(missing)))
    return rendered


def _render_unclaimed(
    missing: dict[str, Request],
    *,
    root: Path,
    held: Claims,
    render: Render,
    shared: SharedStore | None,
) -> set[str]:
    """Render and save the images that no other run has claimed, and return their keys."""
    keys = {request: key for key, request in missing.items()}
    pending: deque[tuple[str, Future[Path]]] = deque()
    saved: set[str] = set()

    def wait(allowed: int) -> None:
        while len(pending) > allowed:
            key, future = pending.popleft()
            future.result()
            held.release(key)
            saved.add(key)

    def take(batch: Sequence[Request]) -> list[Request]:
        wait(allowed=0)  # so that a kill loses one batch at most
        mine = [request for request in batch if held.take(keys[request])]
        done = {request for request in mine if load_image(root, keys[request]) is not None}
        for request in done:
            held.release(keys[request])
        return [request for request in mine if request not in done]

    count = _WRITERS if shared is None else _SHARED_WRITERS
    with ThreadPoolExecutor(count) as writers:  # its end waits for images being written
        for request, image in render(list(missing.values()), take):
            key = keys[request]
            pending.append((key, writers.submit(_encode_and_save, root, key, image, shared)))
            wait(allowed=2 * count)
        wait(allowed=0)
    return saved


def _encode_and_save(root: Path, key: str, image: Picture, shared: SharedStore | None) -> Path:
    png = image if isinstance(image, bytes) else encode_png(image)
    path = save_image(root, key, png)
    if shared is not None:
        shared.write(key, png)
    return path


def _flush_folder(folder: Path) -> None:
    """Make a renamed file durable, where the system can flush folders."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


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
