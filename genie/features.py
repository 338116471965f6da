"""Vectors of images, kept by the image's content and the model: each pair is computed once.

One SQLite file, which several processes may share; it is a cache, safe to delete.
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
_AT_ONCE = 500  # names per question; SQLite takes 999 at least


def known(path: Path, model: str, images: Sequence[str]) -> dict[str, np.ndarray]:
    """The float32 vectors that `keep` was given for these images and this model."""
    if not path.is_file():
        return {}
    found: dict[str, np.ndarray] = {}
    distinct = list(dict.fromkeys(images))
    with _open(path) as connection:
        for start in range(0, len(distinct), _AT_ONCE):
            part = distinct[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            rows = connection.execute(
                f"SELECT image, value FROM vectors WHERE model = ? AND image IN ({marks})",
                (model, *part),
            )
            found |= {image: np.frombuffer(value, np.float32) for image, value in rows}
    return found


def keep(path: Path, model: str, vectors: Mapping[str, np.ndarray]) -> None:
    """Keep float32 vectors (d,) by image; what is kept already stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [(model, image, v.astype(np.float32).tobytes()) for image, v in vectors.items()]
    with _open(path) as connection:
        connection.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", rows)


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.execute(_TABLE)
        yield connection
