import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import mahalanobis

from benchmarks.borders import (
    border,
    border_colours,
    central_square,
    correlations,
    distances,
    lab,
    low_frequencies,
    most_salient,
    outside_centre,
    spectral_residual,
    thirds,
)

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


def test_border_is_a_frame_of_four_pixels_of_32():
    rows, columns = np.indices((32, 32))
    nearest = np.minimum.reduce([rows, columns, 31 - rows, 31 - columns])
    assert (border(32) == (nearest < 4)).all()


def test_correlation_is_that_of_the_border_alone():
    changed = IMAGES.copy()
    changed[:, 4:-4, 4:-4] = RANDOM.integers(0, 256, (6, 24, 24, 3))
    assert correlations(IMAGES, changed, border(32)) == pytest.approx(1)
    found = correlations(IMAGES[:3], IMAGES[3:], border(32))
    for a, b, value in zip(IMAGES[:3], IMAGES[3:], found, strict=True):
        edge = [np.concatenate([i[:4].ravel(), i[-4:].ravel(), i[4:-4, :4].ravel(),
                                i[4:-4, -4:].ravel()]) for i in (a, b)]  # fmt: skip
        assert value == pytest.approx(np.corrcoef(*edge)[0, 1])
    assert np.isnan(correlations(IMAGES[:1] * 0, IMAGES[:1], border(32)))[0]


def test_each_pair_may_have_a_mask_of_its_own():
    masks = RANDOM.random((6, 32, 32)) < 0.5
    found = correlations(IMAGES, IMAGES[::-1], masks)
    expected = np.corrcoef(IMAGES[1][masks[1]].ravel(), IMAGES[4][masks[1]].ravel())[0, 1]
    assert found[1] == pytest.approx(expected)


def test_low_frequencies_are_means_of_boxes_and_the_centre_is_left_out():
    found = low_frequencies(IMAGES)
    assert found[2, 1, 3] == pytest.approx(IMAGES[2, 4:8, 12:16].mean((0, 1)))
    assert outside_centre().sum() == 64 - 16
    assert not outside_centre()[2:6, 2:6].any()


def test_central_square_has_half_of_the_area():
    assert central_square(32).mean() == pytest.approx(0.5, abs=0.03)
    assert (central_square(32) == central_square(32)[::-1, ::-1].T).all()


def test_spectral_residual_is_that_of_a_plain_reference_and_finds_what_stands_out():
    spot = np.full((1, 32, 32, 3), 100, np.uint8) + RANDOM.integers(0, 5, (1, 32, 32, 3), np.uint8)
    spot[0, 20:25, 6:11] = 250
    row, column = np.unravel_index(spectral_residual(spot)[0].argmax(), (32, 32))
    assert 17 <= row <= 27
    assert 3 <= column <= 13
    f = np.fft.fft2(IMAGES[0].mean(2))
    log = np.log(np.abs(f) + 1e-9)
    residual = log - uniform_filter(log, 3, mode="wrap")
    plain = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(f)))) ** 2
    assert spectral_residual(IMAGES)[0].mean() == pytest.approx(plain.mean(), rel=1e-6)


def test_most_salient_pixels_are_the_highest_and_so_many():
    saliency = RANDOM.random((3, 8, 8))
    mask = most_salient(saliency, 20)
    assert (mask.sum((1, 2)) == 20).all()
    assert (saliency[0][mask[0]].min()) > saliency[0][~mask[0]].max()


def test_lab_has_the_published_values_of_primary_colours():
    colours = lab(np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1.0]]))
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    assert colours == pytest.approx(np.array(expected), abs=0.02)


def test_border_colour_ignores_the_centre():
    image = np.full((1, 32, 32, 3), 255, np.uint8)
    image[:, 4:-4, 4:-4] = 0
    assert border_colours(image)[0] == pytest.approx([100, 0, 0], abs=0.02)


def test_distances_are_those_of_scipy():
    pool, colours = RANDOM.normal(size=(50, 3)) * [1, 5, 2], RANDOM.normal(size=(4, 3))
    inverse = np.linalg.inv(np.cov(pool.T))
    expected = [mahalanobis(c, pool.mean(0), inverse) for c in colours]
    assert distances(colours, pool) == pytest.approx(expected, rel=1e-4)


def test_thirds_are_of_each_class():
    values = pd.Series([5.0, 1, 3, 10, 30, 20, 40, 50, 60])
    labels = pd.Series(list("aaabbbbbb"))
    assert list(thirds(values, labels)) == [2, 0, 1, 0, 1, 0, 1, 2, 2]
