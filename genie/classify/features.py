"""A cache of image vectors, keyed by model, computation and image content.

The cache is one SQLite file. Several processes may share it, and it can be deleted safely.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

_TABLE = (
    "CREATE TABLE IF NOT EXISTS vectors "
    "(model TEXT, image TEXT, value BLOB, PRIMARY KEY (model, image)) WITHOUT ROWID"
)
_AT_ONCE = 500  # names per query; SQLite allows at least 999


def known(path: Path, model: str, images: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the cached float32 vectors (d,) by image; images that are not cached are omitted."""
    if not path.is_file():
        return {}
    cached: dict[str, np.ndarray] = {}
    distinct = list(dict.fromkeys(images))
    with _open(path) as connection:
        for start in range(0, len(distinct), _AT_ONCE):
            part = distinct[start : start + _AT_ONCE]
            placeholders = ",".join("?" * len(part))
            rows = connection.execute(
                f"SELECT image, value FROM vectors WHERE model = ? AND image IN ({placeholders})",
                (model, *part),
            )
            cached |= {image: np.frombuffer(value, np.float32) for image, value in rows}
    return cached


def keep(path: Path, model: str, vectors: Mapping[str, np.ndarray]) -> None:
    """Add float32 vectors (d,) by image to the cache, without replacing existing entries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [(model, image, v.astype(np.float32).tobytes()) for image, v in vectors.items()]
    with _open(path) as connection:
        connection.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", rows)


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.execute(_TABLE)
        yield connection
