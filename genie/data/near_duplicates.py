"""Detection of near-duplicates, so that no task is tested on what it was trained on.

A query split never separates them, and those between given train/ and test/ folders are dropped.
"""

from collections.abc import Iterable

import imagehash
import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from genie.data.images import decode_image
from genie.errors import GenieError
from genie.keyed import digest

NEAR_DUPLICATE_BITS = 20  # of 256; re-saved copies differ in fewer, other images in 60 or more


def split_queries(
    table: pd.DataFrame, *, fraction: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split off about `fraction` of each class as the query pool; return (support, query).

    The split depends only on image content and `seed`. Near-duplicates within a class stay on one
    side. They are images whose perceptual hashes differ in at most `NEAR_DUPLICATE_BITS` of 256
    bits, directly or through a chain of such images.
    """
    if not 0 < fraction < 1:
        raise GenieError(f"data.query_fraction must be between 0 and 1, got {fraction}")
    chosen: set[str] = set()
    for label, rows in table.groupby("label", sort=True):
        chosen.update(_draw_queries(clusters(rows), str(label), fraction=fraction, seed=seed))
    in_query = table["image_id"].isin(chosen)
    return table[~in_query].reset_index(drop=True), table[in_query].reset_index(drop=True)


def drop_near_duplicates(images: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Return the images that are no near-duplicates of an image of the same class in `others`."""
    hashes = {label: _hashes(rows["png"]) for label, rows in others.groupby("label")}
    kept = []
    for label, rows in images.groupby("label"):
        known = hashes.get(label, _hashes([]))
        own = zip(rows["image_id"], _hashes(rows["png"]), strict=True)
        kept += [image_id for image_id, one in own if not _near(one, known).any()]
    return images[images["image_id"].isin(kept)].reset_index(drop=True)


def clusters(rows: pd.DataFrame) -> list[list[str]]:
    """Return the image_ids in clusters of near-duplicates; most clusters hold one image."""
    ids = sorted(rows["image_id"])
    hashes = _hashes(rows.set_index("image_id")["png"].loc[ids])
    # one row of the distance matrix at a time, to save memory
    pairs = [(i, j) for i, one in enumerate(hashes) for j in np.flatnonzero(_near(one, hashes))]
    graph = csr_array((np.ones(len(pairs), bool), np.array(pairs).T), shape=(len(ids),) * 2)
    count, cluster = connected_components(graph, directed=False)
    return [[ids[i] for i in np.flatnonzero(cluster == k)] for k in range(count)]


def _hashes(pngs: Iterable[bytes]) -> np.ndarray:
    """Return the perceptual hashes (DCT) of n images, 256 bits each as uint8 (n, 32)."""
    bits = [imagehash.phash(decode_image(png), hash_size=16).hash for png in pngs]
    return np.packbits(np.array(bits, bool).reshape(-1, 256), axis=1)


def _near(one: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return which hashes (n, 32) are those of near-duplicates of `one` (32,)."""
    return np.bitwise_count(hashes ^ one).sum(axis=1) <= NEAR_DUPLICATE_BITS


def _draw_queries(
    clusters: list[list[str]], label: str, *, fraction: float, seed: int
) -> list[str]:
    """Return about `fraction` of the image_ids, in whole clusters.

    The order in which clusters are drawn depends on their content and the seed.
    """
    count = sum(map(len, clusters))
    if len(clusters) < 2:
        raise GenieError(
            f"class {label!r} cannot be split into support and query: it has {count} images, "
            "all alike; add images or give train/ and test/ folders"
        )
    target = max(1, round(fraction * count))
    drawn = sorted(clusters, key=lambda cluster: digest(f"{seed} {min(cluster)}"))
    chosen: list[str] = []
    for cluster in drawn:
        if len(chosen) + len(cluster) <= target and len(chosen) + len(cluster) < count:
            chosen += cluster
    return chosen or min(drawn, key=len)
