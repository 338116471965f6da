"""Near-duplicate detection, which prevents leakage from support to query images.

When query images are split off, near-duplicates stay on the same side. If there are train/ and
test/ folders, images in train/ that are near-duplicates of an image in test/ are dropped.
"""

from collections.abc import Hashable, Iterable, Iterator

import imagehash
import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from genie.core.errors import InvalidValueError
from genie.core.progress import Progress, silent
from genie.core.seeding import digest
from genie.data.images import decode_image

NEAR_DUPLICATE_BITS = 20  # of 256; re-saved copies differ in fewer, distinct images in 60 or more
BANDS = NEAR_DUPLICATE_BITS + 1


def repeated_splits(
    table: pd.DataFrame, count: int, *, fraction: float, seed: int, progress: Progress = silent
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Split off about `fraction` of each class as the query pool, `count` times independently.

    Return pairs (support, query); their number does not change the first. A split depends only on
    image content and `seed`. Near-duplicates within a class stay on the same side. Images are
    near-duplicates if their perceptual hashes differ in at most `NEAR_DUPLICATE_BITS` of 256 bits,
    or if a chain of near-duplicates links them. Raise InvalidValueError unless `fraction` is in
    (0, 1).
    """
    if not 0 < fraction < 1:
        raise InvalidValueError(
            "must be between 0 and 1", argument="query_fraction", value=fraction
        )
    keys = [f"{seed}", *(f"{seed} {number}" for number in range(1, count))]
    chosen: list[set[str]] = [set() for _ in keys]
    for label, rows in _by_class(table, progress):
        groups = clusters(rows)
        for queries, key in zip(chosen, keys, strict=True):
            queries.update(_draw_queries(groups, str(label), fraction=fraction, key=key))
    masks = [table["image_id"].isin(queries) for queries in chosen]
    return [
        (table[~mask].reset_index(drop=True), table[mask].reset_index(drop=True)) for mask in masks
    ]


def drop_near_duplicates(
    images: pd.DataFrame, others: pd.DataFrame, *, progress: Progress = silent
) -> pd.DataFrame:
    """Drop images that are near-duplicates of an image of the same class in `others`."""
    known = dict(list(others.groupby("label")["png"]))
    kept: set[str] = set()
    for label, rows in _by_class(images, progress):
        near = near_any(perceptual_hashes(rows["png"]), perceptual_hashes(known.get(label, [])))
        kept.update(rows["image_id"][~near])
    return images[images["image_id"].isin(kept)].reset_index(drop=True)


def _by_class(table: pd.DataFrame, progress: Progress) -> Iterable[tuple[Hashable, pd.DataFrame]]:
    groups = list(table.groupby("label", sort=True))
    return progress(groups, "looking for near-duplicates", total=len(groups), unit="class")


def clusters(rows: pd.DataFrame) -> list[list[str]]:
    """Group image_ids into clusters of near-duplicates; most clusters contain one image."""
    ids = sorted(rows["image_id"])
    found: dict[int, list[str]] = {}
    hashes = perceptual_hashes(rows.set_index("image_id")["png"].loc[ids])
    for image_id, cluster in zip(ids, cluster_hashes(hashes), strict=True):
        found.setdefault(cluster, []).append(image_id)
    return list(found.values())


def cluster_hashes(hashes: np.ndarray) -> np.ndarray:
    """Return the cluster numbers (n,) of hashes (n, 32)."""
    distinct, place = np.unique(hashes, axis=0, return_inverse=True)
    cluster = np.arange(len(distinct))
    for one, other in _candidates(distinct):
        apart = cluster[one] != cluster[other]
        one, other = one[apart], other[apart]
        near = _near(distinct[one], distinct[other])
        if near.any():
            cluster = _merged(cluster, one[near], other[near])
    return cluster[place]


def near_any(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return a mask (n,) of the hashes (n, 32) with a near-duplicate in `others` (m, 32)."""
    distinct, place = np.unique(hashes, axis=0, return_inverse=True)
    both = np.concatenate([distinct, np.unique(others, axis=0)])
    found = np.zeros(len(both), bool)
    for one, other in _candidates(both):
        one, other = np.minimum(one, other), np.maximum(one, other)
        across = (one < len(distinct)) & (other >= len(distinct)) & ~found[one]
        one, other = one[across], other[across]
        found[one[_near(both[one], both[other])]] = True
    return found[: len(distinct)][place]


def _candidates(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield index pairs of hashes (n, 32) that include all pairs of near-duplicates.

    The bits are divided into more bands than `NEAR_DUPLICATE_BITS`, so near-duplicates agree in at
    least one band. Only pairs that agree in a band are yielded, at most n pairs at a time and some
    pairs more than once. Neighbouring bits are correlated, so each band consists of every k-th bit.
    """
    bits = np.unpackbits(hashes, axis=1).astype(np.int64)
    for start in range(BANDS):
        band = bits[:, start::BANDS]
        yield from _equal(band @ (1 << np.arange(band.shape[1])))


def _equal(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the index pairs of equal keys (n,), grouped by the keys' distance in sorted order."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.arange(len(keys))
    for distance in range(1, len(keys)):
        first = first[first + distance < len(keys)]
        first = first[ordered[first] == ordered[first + distance]]
        if not len(first):
            return
        yield order[first], order[first + distance]


def _near(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return a mask (n,) of the pairs of hashes (n, 32) that are near-duplicates."""
    differing = some.view(np.uint64) ^ others.view(np.uint64)
    return np.bitwise_count(differing).sum(axis=1) <= NEAR_DUPLICATE_BITS


def _merged(cluster: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Merge the clusters of each pair of hashes, and return the new cluster numbers (n,)."""
    edges = (np.ones(len(one), bool), (cluster[one], cluster[other]))
    _, joined = connected_components(csr_array(edges, shape=(len(cluster),) * 2), directed=False)
    return joined[cluster]


def perceptual_hashes(pngs: Iterable[bytes]) -> np.ndarray:
    """Return the perceptual hashes (DCT) of n images: 256 bits each, packed as uint8 (n, 32)."""
    bits = [imagehash.phash(decode_image(png), hash_size=16).hash for png in pngs]
    return np.packbits(np.array(bits, bool).reshape(-1, 256), axis=1)


def _draw_queries(clusters: list[list[str]], label: str, *, fraction: float, key: str) -> list[str]:
    """Return about `fraction` of the image_ids, in whole clusters.

    The order in which clusters are drawn depends on their content and the key.
    """
    count = sum(map(len, clusters))
    if len(clusters) < 2:
        raise InvalidValueError(
            f"class {label!r} cannot be split into support and query: it has {count} images, all "
            "near-duplicates of each other",
            remedy="add images or give train/ and test/ folders",
        )
    target = max(1, round(fraction * count))
    drawn = sorted(clusters, key=lambda cluster: digest(f"{key} {min(cluster)}"))
    chosen: list[str] = []
    for cluster in drawn:
        if len(chosen) + len(cluster) <= target and len(chosen) + len(cluster) < count:
            chosen += cluster
    return chosen or min(drawn, key=len)
