import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse.csgraph import connected_components

from genie.core.errors import InvalidValueError
from genie.data.images import encode_png, image_id
from genie.data.near_duplicates import (
    NEAR_DUPLICATE_BITS,
    cluster_hashes,
    clusters,
    drop_near_duplicates,
    near_any,
    repeated_splits,
)


def picture(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    """A smooth random picture, which survives JPEG well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def images_table(labels: dict[str, int], *, first: int = 0) -> pd.DataFrame:
    rows = []
    for c, (label, count) in enumerate(labels.items()):
        for i in range(count):
            image = picture(first + 100 * c + i)
            rows.append((image_id(image), label, encode_png(image)))
    return pd.DataFrame(rows, columns=["image_id", "label", "png"])


def test_queries_are_the_given_fraction_of_each_class():
    support, query = repeated_splits(images_table({"a": 20, "b": 10}), 1, fraction=0.3, seed=0)[0]
    assert query["label"].value_counts().to_dict() == {"a": 6, "b": 3}
    assert not set(support["image_id"]) & set(query["image_id"])
    assert len(support) == 21


def test_split_depends_on_content_and_seed_alone():
    table = images_table({"a": 20, "b": 20})
    _, one = repeated_splits(table, 1, fraction=0.3, seed=0)[0]
    _, shuffled = repeated_splits(table.sample(frac=1, random_state=0), 1, fraction=0.3, seed=0)[0]
    _, other = repeated_splits(table, 1, fraction=0.3, seed=1)[0]
    assert set(one["image_id"]) == set(shuffled["image_id"])
    assert set(one["image_id"]) != set(other["image_id"])


def test_near_duplicates_stay_on_one_side():
    rows = []
    rng = np.random.default_rng(0)
    for i in range(12):
        detailed = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        for quality in (95, 80):
            buffer = io.BytesIO()
            detailed.resize((64, 64)).save(buffer, format="JPEG", quality=quality)
            image = Image.open(buffer).convert("RGB")
            rows.append((image_id(image), "a", encode_png(image), i))
    table = pd.DataFrame(rows, columns=["image_id", "label", "png", "origin"])
    for seed in range(5):
        support, query = repeated_splits(table, 1, fraction=0.3, seed=seed)[0]
        assert len(query) == 6
        assert not set(support["origin"]) & set(query["origin"])


def test_class_that_cannot_be_split_is_named():
    with pytest.raises(InvalidValueError, match="class 'b' cannot be split"):
        repeated_splits(images_table({"a": 5, "b": 1}), 1, fraction=0.3, seed=0)[0]


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_fraction_outside_the_unit_interval_is_refused(fraction):
    with pytest.raises(InvalidValueError, match="query_fraction must be between 0 and 1"):
        repeated_splits(images_table({"a": 5}), 1, fraction=fraction, seed=0)[0]


def test_near_duplicates_are_clustered_also_through_a_chain():
    def striped(brightness: int) -> Image.Image:
        bands = np.repeat(np.arange(8) % 2, 4)[:, None] * np.ones((1, 32))
        return Image.fromarray((bands * brightness).astype(np.uint8)).convert("RGB")

    alike = [striped(200), striped(220), striped(240)]
    apart = [picture(1, 32, 32), picture(2, 32, 32)]
    pictures = [(image_id(i), encode_png(i)) for i in (*alike, *apart)]
    found = clusters(pd.DataFrame(pictures, columns=["image_id", "png"]))
    expected = [{image_id(i) for i in alike}, *({image_id(i)} for i in apart)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def test_images_near_to_others_of_their_class_are_dropped():
    def saved(seed: int, quality: int) -> Image.Image:
        buffer = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(buffer, format="JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    def table(rows: list[tuple[int, int, str]]) -> pd.DataFrame:
        pictures = [(saved(seed, quality), label) for seed, quality, label in rows]
        return pd.DataFrame(
            [(image_id(p), label, encode_png(p)) for p, label in pictures],
            columns=["image_id", "label", "png"],
        )

    images = table([(0, 95, "a"), (1, 95, "a"), (2, 95, "b"), (3, 95, "c")])
    others = table([(1, 80, "a"), (2, 80, "a"), (9, 80, "b")])
    found = drop_near_duplicates(images, others)
    assert list(found["image_id"]) == list(images["image_id"].iloc[[0, 2, 3]])


@st.composite
def hashes(draw, least: int = 0) -> np.ndarray:
    """Hashes (n, 32) around a few centres, many at about the largest distance that is near."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, centres = draw(st.integers(least, 60)), draw(st.integers(1, 4))
    bits = rng.integers(0, 2, (centres, 256))[rng.integers(0, centres, count)]
    for row in bits:
        row[rng.permutation(256)[: rng.integers(0, 2 * NEAR_DUPLICATE_BITS)]] ^= 1
    return np.packbits(bits, axis=1)


def distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Hamming distances (n, m), one pair after the other."""
    pairs = np.array([[sum(int(x).bit_count() for x in a ^ b) for b in others] for a in some])
    return pairs.reshape(len(some), len(others))


@given(hashes(least=1))
def test_clusters_agree_with_brute_force(found):
    near = distances(found, found) <= NEAR_DUPLICATE_BITS
    _, expected = connected_components(near, directed=False)
    cluster = cluster_hashes(found)
    assert (np.equal.outer(cluster, cluster) == np.equal.outer(expected, expected)).all()


@given(hashes(), hashes())
def test_near_duplicates_of_another_set_agree_with_brute_force(found, others):
    expected = (distances(found, others) <= NEAR_DUPLICATE_BITS).any(axis=1)
    assert list(near_any(found, others)) == list(expected)


@pytest.mark.parametrize("bits", [NEAR_DUPLICATE_BITS, NEAR_DUPLICATE_BITS + 1])
def test_one_differing_bit_in_every_band_but_one_is_still_found(bits):
    one, other = np.zeros(256, int), np.zeros(256, int)
    other[:bits] = 1
    pair = np.packbits([one, other], axis=1)
    assert len(set(cluster_hashes(pair))) == (1 if bits == NEAR_DUPLICATE_BITS else 2)
