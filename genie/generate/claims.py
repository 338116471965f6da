"""Claims on images and on the store, which end with the process that holds them.

Several runs may share one store. A run claims the images of a batch before it renders them, so no
other run renders them too. A claim is a lock on one byte of `<store>/.claims`, chosen by the key.
The kernel releases the locks of a process when it ends, however it ends, so a dead run blocks
nobody and leaves nothing behind. Network file systems pass such locks on (NFS 4, or NFS 3 with its
lock service). Where a file system has no locks, two runs may render one image twice, and the store
holds it once.
"""

import errno
import fcntl
import logging
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genie.errors import GenieError

log = logging.getLogger(__name__)

_HELD = (errno.EAGAIN, errno.EACCES)  # POSIX allows either
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_WAIT = 0.2  # seconds between two looks at a claim of another run


class Claims:
    """The claims of this process on the images of a store; use `claims`."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._supported = True

    def take(self, key: str) -> bool:
        """Claim an image; return False if another run has claimed it."""
        if not self._supported:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(key))
        except OSError as error:
            if error.errno in _HELD:
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

    def release(self, key: str) -> None:
        """End the claim on an image."""
        if self._supported:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(key))

    def wait(self, key: str) -> None:
        """Wait until no other run claims an image."""
        while not self.take(key):
            time.sleep(_WAIT)
        self.release(key)


@contextmanager
def claims(root: Path) -> Iterator[Claims]:
    """Open the claims of a store, and release those that are left at the end.

    Raise GenieError if the store cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = os.open(root / ".claims", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        raise GenieError(
            f"the store {root} must be writable, because images are missing in it, but: "
            f"{error.strerror}; make it writable, or copy .genie/store to a disk that is"
        ) from None
    try:
        yield Claims(file)
    finally:
        os.close(file)


@contextmanager
def in_use(root: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold the store in use, together with other runs or `alone`.

    Whoever deletes images must be alone, because a run relies on images that no set refers to yet.
    Raise GenieError if the store is in use and `alone` is True. A store that cannot be written
    needs no holding.
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
        if error.errno in _HELD:
            raise GenieError(f"a run is using the store {root}; wait until it ends") from None
        raise
    try:
        yield
    finally:
        os.close(file)


def _place(key: str) -> int:
    return zlib.crc32(key.encode())
