from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from genie.classify.fractals import fractal
from genie.classify.transforms import (
    _joined,
    cutmix_copies,
    half_and_fractal_mix,
    mixup_copies,
    pixel_and_patch_mix,
    strong_copies,
    unchanged_copies,
    weak_copies,
)

FILLS = (cutmix_copies, mixup_copies, strong_copies, unchanged_copies, weak_copies)
MIXTURES = (cutmix_copies, mixup_copies)


def flat(*greys: int) -> list[Image.Image]:
    return [Image.new("RGB", (32, 32), (grey,) * 3) for grey in greys]


def noisy(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]


def weights_by_image(copies) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row, label, weight in zip(copies.rows, copies.labels, copies.weights, strict=True):
        found[row][label] += weight
    return found


@pytest.mark.parametrize("fill", FILLS)
def test_every_image_is_copied_once_and_its_weights_sum_to_one(fill):
    copies = fill(noisy(7), list("aaabbbc"), 3)
    assert len(copies.images) == 7
    assert {image.size for image in copies.images} == {(32, 32)}
    found = weights_by_image(copies)
    assert sorted(found) == list(range(7))
    assert [sum(w.values()) for w in found.values()] == pytest.approx([1.0] * 7)


@pytest.mark.parametrize("fill", FILLS)
def test_seed_decides_the_copies(fill):
    def pixels(seed: int) -> bytes:
        return b"".join(i.tobytes() for i in fill(noisy(5), list("abcde"), seed).images)

    assert pixels(1) == pixels(1)
    assert fill is unchanged_copies or pixels(1) != pixels(2)


@pytest.mark.parametrize("fill", FILLS)
def test_no_images_have_no_copies(fill):
    copies = fill([], [], 0)
    assert not copies.images
    assert not copies.labels


@pytest.mark.parametrize("fill", MIXTURES)
def test_label_weights_are_the_shares_of_the_pixels(fill):
    # black images of one class and white ones of another: brightness is the second one's share
    copies = fill(flat(*[0] * 10, *[255] * 10), ["black"] * 10 + ["white"] * 10, 0)
    found = weights_by_image(copies)
    assert any(0.1 < found[i]["white"] < 0.9 for i in found)
    for i, image in enumerate(copies.images):
        share = np.asarray(image).mean() / 255
        assert share == pytest.approx(found[i]["white"], abs=0.5 / 255 + 1e-6)


def is_box(mask: np.ndarray) -> bool:
    """Whether the true pixels fill one rectangle."""
    return bool((mask == np.outer(mask.any(1), mask.any(0))).all())


def test_cutmix_pastes_one_box():
    pictures = flat(*[0] * 10, *[255] * 10)
    copies = cutmix_copies(pictures, list("a" * 10 + "b" * 10), 0)
    pasted = [
        np.asarray(copy)[..., 0] != np.asarray(own)[..., 0]
        for own, copy in zip(pictures, copies.images, strict=True)
    ]
    assert any(mask.any() and not mask.all() for mask in pasted)
    assert all(is_box(mask) for mask in pasted)


def test_weak_copies_keep_colours_and_strong_ones_do_not():
    red = [Image.new("RGB", (32, 32), (200, 40, 40))] * 20
    for image in weak_copies(red, ["a"] * 20, 0).images:
        assert len(np.unique(np.asarray(image)[8:24, 8:24].reshape(-1, 3), axis=0)) == 1
    strong = {tuple(np.asarray(i)[16, 16]) for i in strong_copies(red, ["a"] * 20, 0).images}
    assert len(strong) > 5


def test_pixel_and_patch_mixtures_follow_their_formulas():
    random = np.random.default_rng(0)
    pairs = random.integers(0, 256, (2, 40, 32, 32, 3), np.uint8)
    generated, real = ([Image.fromarray(a) for a in part] for part in pairs)
    mixtures = pixel_and_patch_mix(generated, real, 3)
    assert len({m.share for m in mixtures}) > 10
    for i, m in enumerate(mixtures):
        g, x, mixed = pairs[0, i].astype(float), pairs[1, i].astype(float), np.asarray(m.image)
        if m.level == "pixel":
            assert np.abs(mixed - (m.share * g + (1 - m.share) * x)).max() <= 0.5
            continue
        own = (mixed == g).all(2)
        assert (own | (mixed == x).all(2)).all()
        patches = own.reshape(4, 8, 4, 8).transpose(0, 2, 1, 3).reshape(16, 64)
        assert set(patches.all(1) | ~patches.any(1)) == {True}
        assert patches.all(1).mean() == m.share
        assert 0 < m.share < 1


def test_seed_decides_the_mixtures():
    pictures = noisy(6)
    first, again, other = (
        [m.image.tobytes() for m in pixel_and_patch_mix(pictures, pictures[::-1], seed)]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_one_half_is_generated_the_other_real_and_a_fifth_of_the_light_a_fractal():
    generated, real = (Image.new("RGB", (64, 48), (grey,) * 3) for grey in (250, 50))
    mixtures = half_and_fractal_mix([generated] * 40, [real] * 40, seed=3)
    assert {(m.level, m.share) for m in mixtures} == {("half", 1.0)}
    halves = set()
    for mixture in mixtures:
        image = np.asarray(mixture.image).astype(float)
        corners = image[[0, 0, -1, -1], [0, -1, 0, -1]].mean(1)
        generated_corners = corners >= 0.8 * 250 - 1
        assert (generated_corners | ((corners >= 39) & (corners <= 0.8 * 50 + 52))).all()
        halves.add(tuple(generated_corners))
    left, upper = (True, False, True, False), (True, True, False, False)
    assert halves == {left, upper, tuple(not c for c in left), tuple(not c for c in upper)}


def test_halves_meet_in_a_ramp_of_twenty_pixels_of_256():
    generated, real = np.full((256, 256, 3), 200.0), np.full((256, 256, 3), 100.0)
    for seed in range(8):
        joined = _joined(generated, real, np.random.default_rng(seed))[..., 0]
        between = (joined > 100) & (joined < 200)
        lines = between.all(0).sum(), between.all(1).sum()
        assert sorted(lines) == [0, 20]
        assert joined.mean() == pytest.approx(150)


def test_fractals_are_the_same_for_a_seed_and_differ_between_draws():
    draw = np.random.default_rng(0)
    first, second = fractal(draw, 32, 48), fractal(draw, 32, 48)
    assert first.shape == (32, 48, 3)
    assert first.min() >= 0
    assert 200 < first.max() <= 255
    assert np.array_equal(first, fractal(np.random.default_rng(0), 32, 48))
    assert np.abs(first - second).mean() > 5
    assert 0.02 < (first.max(2) > 0).mean() < 0.98  # a set of points, neither empty nor the plane
