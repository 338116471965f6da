"""Distances between samples of features agree with their definitions."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from zoo.distances import frechet, frechet_with_error, kernel_with_error


def features(count: int, *, seed: int, shift: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.normal(shift, 1, (count, 12)) @ np.random.default_rng(9).normal(0, 1, (12, 12))


def test_frechet_distance_agrees_with_the_matrix_root() -> None:
    first, second = features(300, seed=0), features(200, seed=1, shift=0.3)
    a, b = (np.cov(x, rowvar=False) for x in (first, second))
    gap = first.mean(0) - second.mean(0)
    expected = gap @ gap + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet(first, second) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_a_sample_to_itself_is_zero() -> None:
    assert frechet(features(50, seed=0), features(50, seed=0)) == pytest.approx(0, abs=1e-8)


def test_error_covers_the_spread_of_independent_samples() -> None:
    first = features(500, seed=0)
    values = [frechet_with_error(first, features(100, seed=s, shift=0.4)) for s in range(1, 21)]
    spread = np.std([value for value, _ in values], ddof=1)
    assert np.mean([error for _, error in values]) == pytest.approx(spread, rel=0.6)


def test_kernel_distance_is_unbiased_where_samples_agree_and_grows_where_they_differ() -> None:
    first = features(400, seed=0)
    same, spread = kernel_with_error(first, features(400, seed=1))
    shifted, _ = kernel_with_error(first, features(400, seed=2, shift=0.5))
    assert abs(same) < spread
    assert shifted > 10 * spread
