"""The image store: a content-addressed cache, on disk as `<root>/ab/<key>.png` or in memory.

The store on disk is not a DVC output. An interrupted run therefore resumes where it stopped, and a
run with a different r reuses earlier images. Writes are atomic: a file is written under a temporary
name, flushed to disk and renamed. Several runs can share one store.
"""

import errno
import logging
import os
import struct
import tempfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from genie.data.images import decode_image
from genie.plan.requests import Request
from genie.render.locks import ImageLocks, image_locks, in_use
from genie.render.remote_store import RemoteStore

if TYPE_CHECKING:  # commands that only read the store need no torch
    from genie.render.engine import Rendered

log = logging.getLogger(__name__)

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WRITERS = 4
_REMOTE_WRITERS = 32  # because each waits for the network
_COPIED_AT_ONCE = 256

Keys = Mapping[Request, str]
"""The key of each request; requests with the same key share one image."""


class Filling(Protocol):
    """An operation that adds missing images to a store."""

    def missing(self) -> list[Request]:
        """Return the requests for missing images; if called again, first wait for other runs."""
        ...

    def claim(self, batch: Sequence[Request]) -> list[Request]:
        """Lock the images of a batch, and return the requests that this run should render."""
        ...

    def put(self, results: "Sequence[Rendered]") -> None:
        """Store images; a store on disk returns only when they are written."""
        ...


class Store(Protocol):
    """Images by key."""

    def png(self, key: str) -> bytes:
        """Return the PNG bytes of a stored image."""
        ...

    def image(self, key: str) -> Image.Image:
        """Return a stored image as RGB."""
        ...

    def filling(self, keys: Keys, *, at_once: int) -> AbstractContextManager[Filling]:
        """Start adding missing images; `at_once` is the number of requests claimed at a time."""
        ...

    def in_use(self) -> AbstractContextManager[None]:
        """Prevent other processes from deleting images until the context ends."""
        ...


class MemoryStore:
    """Images in the memory of this process."""

    def __init__(self) -> None:
        self._pngs: dict[str, bytes] = {}

    def png(self, key: str) -> bytes:
        """Return the PNG bytes of a stored image."""
        return self._pngs[key]

    def image(self, key: str) -> Image.Image:
        """Return a stored image as RGB."""
        return decode_image(self._pngs[key])

    @contextmanager
    def filling(self, keys: Keys, *, at_once: int) -> Iterator[Filling]:
        """Start adding missing images."""
        yield _MemoryFilling(self._pngs, keys)

    def in_use(self) -> AbstractContextManager[None]:
        """Do nothing, because no other process can delete images."""
        return nullcontext()


class _MemoryFilling:
    def __init__(self, pngs: dict[str, bytes], keys: Keys) -> None:
        self._pngs, self._keys = pngs, keys

    def missing(self) -> list[Request]:
        first = _first_by_key(self._keys)
        return [request for key, request in first.items() if key not in self._pngs]

    def claim(self, batch: Sequence[Request]) -> list[Request]:
        return list(batch)

    def put(self, results: "Sequence[Rendered]") -> None:
        self._pngs |= {self._keys[result.request]: result.png for result in results}


class DiskStore:
    """Images in a folder, which several runs may share.

    Images in the `remote` store are copied to the folder instead of being rendered, and rendered
    images are copied to the `remote` store.
    """

    def __init__(self, root: Path, remote: RemoteStore | None = None) -> None:
        self.root = root
        self.remote = remote

    def png(self, key: str) -> bytes:
        """Return the PNG bytes of a stored image."""
        return store_path(self.root, key).read_bytes()

    def image(self, key: str) -> Image.Image:
        """Return a stored image as RGB."""
        return decode_image(self.png(key))

    @contextmanager
    def filling(self, keys: Keys, *, at_once: int) -> Iterator[Filling]:
        """Start adding missing images, first from the remote store.

        Images are written in parallel. If another run is rendering an image, wait for that run; if
        it dies, the image is rendered here. Raise FailedError if images are missing and the store
        is not writable.
        """
        missing = {
            key: request
            for key, request in _first_by_key(keys).items()
            if load_image(self.root, key) is None
        }
        if not missing:
            yield _MemoryFilling({}, {})
            return
        wide = at_once > 1
        with image_locks(self.root, wide=wide) as locks:
            sweep(self.root, locks)
            if self.remote is not None:
                for key in copy_remote(self.remote, missing, self.root):
                    del missing[key]
            count = _WRITERS if self.remote is None else _REMOTE_WRITERS
            with ThreadPoolExecutor(count) as writers:
                yield _DiskFilling(self, missing, locks, writers)

    def in_use(self) -> AbstractContextManager[None]:
        """Prevent other processes from deleting images until the context ends."""
        return in_use(self.root)


class _DiskFilling:
    def __init__(
        self,
        store: DiskStore,
        missing: dict[str, Request],
        locks: ImageLocks,
        writers: ThreadPoolExecutor,
    ) -> None:
        self._store, self._locks, self._writers = store, locks, writers
        self._left = missing
        self._keys = {request: key for key, request in missing.items()}
        self._asked = False

    def missing(self) -> list[Request]:
        if self._asked:
            self._left = {k: q for k, q in self._left.items() if not self._has(k)}
            if self._left:
                log.info("waiting for %d images that another run is rendering", len(self._left))
                self._locks.wait(next(iter(self._left)))
        self._asked = True
        return list(self._left.values())

    def claim(self, batch: Sequence[Request]) -> list[Request]:
        mine = [request for request in batch if self._locks.acquire(self._keys[request])]
        done = {request for request in mine if self._has(self._keys[request])}
        for request in done:
            self._locks.release(self._keys[request])
        return [request for request in mine if request not in done]

    def put(self, results: "Sequence[Rendered]") -> None:
        for key in self._writers.map(self._save, results):
            self._locks.release(key)
            del self._left[key]

    def _save(self, result: "Rendered") -> str:
        key = self._keys[result.request]
        save_image(self._store.root, key, result.png)
        if self._store.remote is not None:
            self._store.remote.write(key, result.png)
        return key

    def _has(self, key: str) -> bool:
        return load_image(self._store.root, key) is not None


def _first_by_key(keys: Keys) -> dict[str, Request]:
    """Return the first request for each key, in the order of the requests."""
    first: dict[str, Request] = {}
    for request, key in keys.items():
        first.setdefault(key, request)
    return first


def store_path(root: Path, key: str) -> Path:
    """Return the path of a key's image, whether or not it exists."""
    return root / key[:2] / f"{key}.png"


def save_image(root: Path, key: str, png: bytes) -> Path:
    """Write an image under its key with `write_durably`, and return its path."""
    path = store_path(root, key)
    write_durably(path, png, prefix=f".{key}-")
    return path


def write_durably(path: Path, content: bytes, *, prefix: str, mode: int = 0o644) -> None:
    """Write a file atomically and durably, so that it is complete or absent after a power cut.

    The temporary name of the file starts with `prefix`. Hard links to an older file of the same
    name keep the old content. Raise OSError with the file's name if it cannot be written, for
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
    """Return the PNG bytes for a key, or None if the file is missing, truncated or corrupt."""
    try:
        png = store_path(root, key).read_bytes()
    except FileNotFoundError:
        return None
    return png if _is_whole(png) else None


def sweep(root: Path, locks: ImageLocks) -> None:
    """Delete the temporary files of runs that died while writing an image."""
    for file in root.glob("*/.*.tmp"):
        key = file.name[1:].rpartition("-")[0]
        if locks.acquire(key):  # a run locks an image while writing it
            file.unlink(missing_ok=True)
            locks.release(key)


def copy_remote(remote: RemoteStore, keys: Collection[str], root: Path) -> list[str]:
    """Copy intact images from the remote store, and return their keys."""
    there = sorted(remote.keys() & set(keys))
    copied = []
    for start in range(0, len(there), _COPIED_AT_ONCE):
        for key, png in remote.read(there[start : start + _COPIED_AT_ONCE]).items():
            if _is_whole(png):
                save_image(root, key, png)
                copied.append(key)
    if there:
        log.info("%d images copied from the remote store %s", len(copied), remote.url)
    return copied


def _flush_folder(folder: Path) -> None:
    """Make a renamed file durable, if the system can flush folders."""
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
