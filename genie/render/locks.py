"""File locks on images and on the store, which are released when the process ends.

Several runs may share one store. A run locks the images of a batch before it renders them, so that
no other run renders the same images. The lock on an image covers one byte of `<store>/.claims`,
chosen by a hash of the key. The kernel releases a process's locks when the process ends or crashes,
so a dead run leaves no stale locks and does not block other runs. A run that locks tens of
thousands of images at once locks ranges of bytes, because the kernel searches all locks for each
new lock. Until it is released, a lock on a range also blocks other images in this range. Locks work
on network file systems (NFS 4, or NFS 3 with its lock service). On a file system without locks, two
runs may render the same image, but it is stored only once.
"""

import errno
import fcntl
import logging
import os
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genie.core.errors import FailedError

log = logging.getLogger(__name__)

_LOCKED = (errno.EAGAIN, errno.EACCES)  # POSIX allows either
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_BITS = 32  # of the checksum that maps a key to its byte
_WIDE_BITS = 14  # of the checksum, for locks on byte ranges
_WAIT = 0.2  # seconds between attempts to acquire a lock


class ImageLocks:
    """This process's locks on the images in a store; `image_locks` opens them."""

    def __init__(self, file: int, *, wide: bool) -> None:
        self._file = file
        self._supported = True
        self._length = 1 << (_BITS - _WIDE_BITS) if wide else 1
        self._count: Counter[int] = Counter()

    def acquire(self, key: str) -> bool:
        """Lock an image; return False if another run has locked it."""
        if not self._supported:
            return True
        offset = self._offset(key)
        if self._count[offset]:
            self._count[offset] += 1
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, self._length, offset)
        except OSError as error:
            if error.errno in _LOCKED:
                return False
            if error.errno not in _NO_LOCKS:
                raise
            self._supported = False
            log.warning(
                "the store is on a file system without locks (%s): do not start two runs at once, "
                "they would render the same images",
                error.strerror,
            )
            return True
        self._count[offset] = 1
        return True

    def release(self, key: str) -> None:
        """Unlock an image."""
        if not self._supported:
            return
        offset = self._offset(key)
        self._count[offset] -= 1
        if not self._count[offset]:
            del self._count[offset]
            fcntl.lockf(self._file, fcntl.LOCK_UN, self._length, offset)

    def wait(self, key: str) -> None:
        """Wait until no other run holds the lock on an image."""
        while not self.acquire(key):
            time.sleep(_WAIT)
        self.release(key)

    def _offset(self, key: str) -> int:
        return zlib.crc32(key.encode()) // self._length * self._length


@contextmanager
def image_locks(root: Path, *, wide: bool = False) -> Iterator[ImageLocks]:
    """Open the locks of a store, and release all remaining locks at the end.

    `wide` locks cover byte ranges, for a run that locks very many images at once. Raise FailedError
    if the store is not writable.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = os.open(root / ".claims", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        raise FailedError(
            f"must be writable, because images are missing in {root}, but: {error.strerror}",
            argument="store",
            remedy="make it writable, or copy it to a disk that is",
        ) from None
    try:
        yield ImageLocks(file, wide=wide)
    finally:
        os.close(file)


@contextmanager
def in_use(root: Path, *, alone: bool = False) -> Iterator[None]:
    """Mark the store as in use with a lock that is shared, or exclusive if `alone` is True.

    Deleting images requires the exclusive lock, because a run may rely on images that no set refers
    to yet. Raise FailedError if the store is in use and `alone` is True. A store that is not
    writable is not locked.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = os.open(root / ".in-use", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if alone or error.errno not in _READ_ONLY:
            raise
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except OSError as error:
        os.close(file)
        if error.errno in _LOCKED:
            raise FailedError(
                f"is in use by a run: {root}", argument="store", remedy="wait until it ends"
            ) from None
        raise
    try:
        yield
    finally:
        os.close(file)
