"""The three disjoint parts of a data set that the bundled models are trained and tested on."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
    """Images in uint8, grey (n, 32, 32) or RGB (n, 32, 32, 3), and class indices (n,) in 0..9."""

    images: np.ndarray
    labels: np.ndarray


class Parts(NamedTuple):
    """Three disjoint parts of the data set.

    The models are trained on `pretraining`. Support and query sets come from the other two parts.
    """

    pretraining: Part
    support: Part
    query: Part


def split(train: Part, query: Part, *, support: int, seed: int) -> Parts:
    """Split `train` by a seeded permutation and remove duplicate images.

    An image that occurs in several parts stays in the first of query, support and pretraining.
    """
    order = np.random.default_rng(seed).permutation(len(train.labels))
    seen: set[str] = set()
    kept_query = _unseen(query, seen)
    kept_support = _unseen(take(train, np.sort(order[:support])), seen)
    kept_pretraining = _unseen(take(train, np.sort(order[support:])), seen)
    return Parts(kept_pretraining, kept_support, kept_query)


def separate(parts: Parts, near: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Parts:
    """Remove near-duplicates of queries from support, and of queries and support from pretraining.

    `near(images, others)` returns a mask (n,) of images that are near-duplicates of one of
    `others`.
    """
    support = take(parts.support, ~near(parts.support.images, parts.query.images))
    held_out = np.concatenate([support.images, parts.query.images])
    pretraining = take(parts.pretraining, ~near(parts.pretraining.images, held_out))
    return Parts(pretraining, support, parts.query)


def take(part: Part, rows: np.ndarray) -> Part:
    """Return some rows of a part, by index or mask."""
    return Part(part.images[rows], part.labels[rows])


def _unseen(part: Part, seen: set[str]) -> Part:
    """Return the images whose content is not in `seen`, and add them to `seen`."""
    rows = []
    for row, image in enumerate(part.images):
        key = image.tobytes().hex()
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return take(part, np.array(rows, dtype=np.int64))
