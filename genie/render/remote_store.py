"""A remote store, which is a second image store on S3 or other storage that fsspec supports.

Its images are copied to the local store instead of being rendered again, and rendered images are
copied to it. No image is therefore lost when a machine is preempted, and machines without a shared
disk can share images.
"""

import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec

from genie.core.errors import FailedError, InvalidValueError, one_line

log = logging.getLogger(__name__)

_AT_ONCE = 16  # concurrent requests to the storage


@dataclass(frozen=True)
class RemoteStore:
    """A folder on an fsspec file system, with the same relative paths as in a local store."""

    files: Any
    folder: str
    url: str

    def keys(self) -> set[str]:
        """Return the keys of all images."""
        try:
            return {PurePosixPath(name).stem for name in self.files.find(self.folder)}
        except FileNotFoundError:
            return set()
        except Exception as error:
            raise self._unusable(error) from error

    def read(self, keys: Collection[str]) -> dict[str, bytes]:
        """Return the PNG bytes of images by key, leaving out missing images."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            found = zip(keys, threads.map(self._read, keys), strict=True)
            return {key: png for key, png in found if png is not None}

    def write(self, key: str, png: bytes) -> None:
        """Write an image."""
        try:
            path = self._path(key)
            self.files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.files.pipe_file(path, png)
        except Exception as error:
            raise self._unusable(error) from error

    def _read(self, key: str) -> bytes | None:
        try:
            content: bytes = self.files.cat_file(self._path(key))
            return content
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._unusable(error) from error

    def _path(self, key: str) -> str:
        return f"{self.folder}/{key[:2]}/{key}.png"

    def _unusable(self, error: Exception) -> FailedError:
        return FailedError(
            f"must be readable and writable at {self.url}, but: {one_line(error)}",
            argument="remote_store",
            remedy="check the address and the credentials, or leave it out; finished images are "
            "kept",
        )


def open_remote(url: str) -> RemoteStore:
    """Open a remote store by its URL, such as s3://bucket/folder.

    The library for the storage looks up the credentials. Raise InvalidValueError if fsspec does not
    know the type of storage, or if the library for it is not installed.
    """
    try:
        files, folder = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InvalidValueError(
            f"must be an address that fsspec can open, but: {one_line(error)}",
            argument="remote_store",
            value=url,
            remedy="for S3, run `pip install -e '.[s3]'`",
        ) from error
    return RemoteStore(files, folder.rstrip("/"), url)
