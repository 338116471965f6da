"""GeNIe-Ada: choice of the noise level at which an image crosses from source to target.

| code | paper | meaning |
|---|---|---|
| z_levels | Z_r | embeddings of the images rendered at r_1 < ... < r_M |
| z_source, z_target | Z_S, Z_T | embedding of the source; mean embedding of the target's support |
| positions | d_1 ... d_M | projections on the axis from source (0) to target (1) |
"""

from collections.abc import Collection

import numpy as np

from genie.core.errors import InvalidValueError


def axis_positions(z_levels: np.ndarray, z_source: np.ndarray, z_target: np.ndarray) -> np.ndarray:
    """Compute the position of each level on the axis from source (0) to target (1).

    d_m = (Z_m - Z_S) . (Z_T - Z_S) / ||Z_T - Z_S||^2 (Algorithm 1). `z_levels` has shape (M, d),
    `z_source` and `z_target` have shape (d,), and the result has shape (M,). Raise
    InvalidValueError if source and target coincide or a value is not finite.
    """
    z_levels, z_source, z_target = (
        np.asarray(z, dtype=np.float64) for z in (z_levels, z_source, z_target)
    )
    for name, z in (("z_levels", z_levels), ("z_source", z_source), ("z_target", z_target)):
        if not np.isfinite(z).all():
            raise InvalidValueError(
                "must be finite to place images on the source-target axis", argument=name
            )
    axis = z_target - z_source
    squared_length = float(axis @ axis)
    if squared_length <= 1e-12 * max(float(z_source @ z_source), float(z_target @ z_target)):
        raise InvalidValueError(
            "and z_target must differ to span an axis, got the same embedding",
            argument="z_source",
            remedy="leave this pair out or use another backbone",
        )
    return (z_levels - z_source) @ axis / squared_length


def largest_shift(positions: np.ndarray, *, among: Collection[int] | None = None) -> int:
    """Return the index of the level after the largest jump along the source-target axis.

    `positions[i]` is the position of the image generated at level i, in ascending order (GeNIe-Ada,
    Algorithm 1). The first level has no predecessor and is never chosen. Ties go to the lowest
    level, which is closest to the source. Jumps within 1e-9 of each other are ties, so that
    rounding does not decide. With `among`, only jumps between two adjacent levels in this set
    count.
    """
    shifts = _shifts(positions)
    if among is not None:
        counts = [m in among and m + 1 in among for m in range(len(shifts))]
        shifts = np.where(counts, shifts, -1.0)
    return int(np.flatnonzero(shifts >= shifts.max() - 1e-9)[0]) + 1


def chosen_level(
    positions: np.ndarray,
    *,
    min_position: float | None = None,
    among: Collection[int] | None = None,
) -> int:
    """Return the level that GeNIe-Ada keeps: the first near the target after the largest shift.

    A level is near the target if its position is at least `min_position`. If no level is, the
    highest level is kept. If `min_position` is None, the level after the largest shift is kept, as
    in the paper. This rule often stops before an image has become the target. With `among`, only
    the levels in this set are candidates.
    """
    start = largest_shift(positions, among=among)
    if min_position is None:
        return start
    candidates = [m for m in range(start, len(positions)) if among is None or m in among]
    return next((m for m in candidates if positions[m] >= min_position), candidates[-1])


def shift_ratio(positions: np.ndarray) -> float:
    """Return the largest jump divided by the second largest; a higher ratio is a clearer choice.

    The ratio is at least 1. It is NaN if there is nothing to compare (M = 2, or all jumps are 0),
    and infinite if only one jump is not 0.
    """
    shifts = np.sort(_shifts(positions))[::-1]
    if len(shifts) < 2 or shifts[0] == 0:
        return float("nan")
    return float(shifts[0] / shifts[1]) if shifts[1] > 0 else float("inf")


def finalists(positions: np.ndarray) -> list[int]:
    """Return the levels before and after the two largest jumps, in ascending order."""
    ends = np.argsort(-_shifts(positions), kind="stable")[:2] + 1
    return sorted({int(m) for m in (*ends, *(ends - 1))})


def _shifts(positions: np.ndarray) -> np.ndarray:
    if len(positions) < 2:
        raise InvalidValueError(
            "must hold at least 2 levels to compare", argument="positions", value=len(positions)
        )
    if not np.isfinite(positions).all():
        raise InvalidValueError(
            "must be finite to compare levels", argument="positions", value=list(positions)
        )
    return np.abs(np.diff(positions))
