"""Fractal images from random iterated function systems, for blending into training images.

The original DiffuseMix reads fractals from a folder. Here, fractals are computed, so no files are
needed.
"""

import numpy as np

_MAPS = 4
_POINTS, _ROUNDS, _SKIPPED = 1_000, 40, 10


def fractal(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return the attractor of a random system of affine maps, float (height, width, 3) in [0, 255].

    Contractions of the plane move points in random order (chaos game, Barnsley 1988). The
    brightness of a pixel is the logarithm of its number of hits, and each map has its own colour.
    """
    matrices, shifts = _contractions(draw), draw.uniform(-1, 1, (_MAPS, 2))
    colours = draw.uniform(0, 1, (_MAPS, 3))
    points, colour = draw.uniform(-1, 1, (_POINTS, 2)), np.full((_POINTS, 3), 0.5)
    visited, tints = [], []
    for turn in range(_ROUNDS):
        chosen = draw.integers(_MAPS, size=_POINTS)
        points = np.einsum("nij,nj->ni", matrices[chosen], points) + shifts[chosen]
        colour = (colour + colours[chosen]) / 2
        if turn >= _SKIPPED:
            visited.append(points)
            tints.append(colour)
    return _painted(np.concatenate(visited), np.concatenate(tints), height, width)


def _contractions(draw: np.random.Generator) -> np.ndarray:
    """Return random matrices (maps, 2, 2) that shrink the plane by 0.3 to 0.8."""
    matrices = draw.uniform(-1, 1, (_MAPS, 2, 2))
    norms = np.linalg.norm(matrices, ord=2, axis=(1, 2))[:, None, None]
    shrunk: np.ndarray = matrices / norms * draw.uniform(0.3, 0.8, (_MAPS, 1, 1))
    return shrunk


def _painted(points: np.ndarray, colours: np.ndarray, height: int, width: int) -> np.ndarray:
    low, high = points.min(0), points.max(0)
    place = (points - low) / (high - low).clip(1e-9) * [height - 1, width - 1]
    pixel = np.ravel_multi_index(tuple(place.round().astype(int).T), (height, width))
    hits = np.bincount(pixel, minlength=height * width)
    sums = [np.bincount(pixel, weights=c, minlength=height * width) for c in colours.T]
    mean = np.stack(sums, 1) / hits.clip(1)[:, None]
    brightness = np.log1p(hits) / np.log1p(hits.max())
    return (255 * mean * brightness[:, None]).reshape(height, width, 3)
