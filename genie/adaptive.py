"""GeNIe-Ada: which noise level crosses from the source class to the target class.

| code | paper | meaning |
|---|---|---|
| z_levels | Z_r | embeddings of the images rendered at r_1 < ... < r_M |
| z_source, z_target | Z_S, Z_T | embedding of the source; mean embedding of the target's support |
| positions | d_1 ... d_M | projections on the axis from source (0) to target (1) |
"""

import numpy as np

from genie.errors import GenieError


def positions(z_levels: np.ndarray, z_source: np.ndarray, z_target: np.ndarray) -> np.ndarray:
    """Where each level stands between source (0) and target (1): (M, d), (d,), (d,) -> (M,).

    d_m = (Z_m - Z_S) . (Z_T - Z_S) / ||Z_T - Z_S||^2 (Algorithm 1). GenieError if the axis is
    degenerate: source and target coincide, or a value is not finite.
    """
    z_levels, z_source, z_target = (
        np.asarray(z, dtype=np.float64) for z in (z_levels, z_source, z_target)
    )
    for name, z in (("z_levels", z_levels), ("z_source", z_source), ("z_target", z_target)):
        if not np.isfinite(z).all():
            raise GenieError(f"{name} must be finite to place images on the source-target axis")
    axis = z_target - z_source
    squared_length = float(axis @ axis)
    if squared_length <= 1e-12 * max(float(z_source @ z_source), float(z_target @ z_target)):
        raise GenieError(
            "z_source and z_target must differ to span an axis, got the same embedding; "
            "leave this pair out or use another backbone"
        )
    return (z_levels - z_source) @ axis / squared_length


def largest_shift(positions: np.ndarray) -> int:
    """Index of the noise level reached by the largest jump along the source-target axis.

    `positions[i]` belongs to the image generated at level i, levels ascending (GeNIe-Ada,
    Algorithm 1). The first level has no predecessor, so it is never chosen; ties go to the
    lowest level, the one closest to the source. Jumps equal within 1e-9 are ties, so that
    rounding cannot decide.
    """
    shifts = _shifts(positions)
    return int(np.flatnonzero(shifts >= shifts.max() - 1e-9)[0]) + 1


def shift_ratio(positions: np.ndarray) -> float:
    """Largest jump relative to the second largest, at least 1: how clear the choice is.

    nan if there is nothing to compare (M = 2, or no jump at all); inf if only one level jumps.
    """
    shifts = np.sort(_shifts(positions))[::-1]
    if len(shifts) < 2 or shifts[0] == 0:
        return float("nan")
    return float(shifts[0] / shifts[1]) if shifts[1] > 0 else float("inf")


def finalists(positions: np.ndarray) -> list[int]:
    """Levels that decide between the two largest jumps: their ends and their starts, ascending."""
    ends = np.argsort(-_shifts(positions), kind="stable")[:2] + 1
    return sorted({int(m) for m in (*ends, *(ends - 1))})


def settled(positions: np.ndarray) -> int:
    """`largest_shift` where some levels have no position (NaN): only jumps between known ones."""
    shifts = np.nan_to_num(np.abs(np.diff(positions)), nan=-1.0)
    return int(np.flatnonzero(shifts >= shifts.max() - 1e-9)[0]) + 1


def _shifts(positions: np.ndarray) -> np.ndarray:
    if len(positions) < 2:
        raise GenieError(f"noise.M must be at least 2 to compare levels, got {len(positions)}")
    if not np.isfinite(positions).all():
        raise GenieError(f"positions must be finite to compare levels, got {list(positions)}")
    return np.abs(np.diff(positions))
