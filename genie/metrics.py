"""Accuracy, groups and intervals over tasks; label consistency."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats


def interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean with its 95% interval (Student's t over tasks) and n; one value has no interval.

    Keys: mean, low, high, n. With two or more values: mean ± t(0.975, n-1) s / sqrt(n).
    """
    array = np.asarray(values, dtype=float)
    n = len(array)
    if n == 0:
        return {"mean": None, "low": None, "high": None, "n": 0}
    mean = float(array.mean())
    if n == 1:
        return {"mean": round(mean, 6), "low": None, "high": None, "n": 1}
    half = float(stats.t.ppf(0.975, n - 1) * array.std(ddof=1) / np.sqrt(n))
    return {
        "mean": round(mean, 6),
        "low": round(mean - half, 6),
        "high": round(mean + half, 6),
        "n": n,
    }


def class_accuracies(labels: np.ndarray, predicted: np.ndarray) -> pd.Series:
    """Accuracy in [0, 1] per true class, sorted by class name."""
    correct = pd.Series(np.asarray(labels) == np.asarray(predicted))
    return correct.groupby(np.asarray(labels)).mean().sort_index()


def group_accuracies(per_class: pd.Series, groups: pd.Series) -> dict[str, float | None]:
    """Mean of the per-class accuracies of many, medium and few; an empty group is None."""
    result: dict[str, float | None] = {}
    for group in ("many", "medium", "few"):
        members = [c for c in per_class.index if groups[c] == group]
        result[group] = round(float(per_class[members].mean()), 6) if members else None
    return result


def boundary_accuracy(
    probabilities: np.ndarray,
    labels: Sequence[str],
    *,
    classes: Sequence[str],
    pairs: Sequence[tuple[str, str]],
) -> float | None:
    """Mean over pairs (a, b) of the accuracy on images of a and b, between a and b alone.

    `probabilities` (n, c) with columns `classes`; `labels` (n,). Chance is about 0.5. None where
    no pair has images.
    """
    column = {c: i for i, c in enumerate(classes)}
    truth = np.asarray(labels)
    scores = []
    for a, b in pairs:
        own = np.isin(truth, (a, b))
        if own.any():
            called_a = probabilities[own, column[a]] >= probabilities[own, column[b]]
            scores.append(float((called_a == (truth[own] == a)).mean()))
    return round(float(np.mean(scores)), 6) if scores else None


def paired_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test over tasks; None for fewer than two tasks.

    1 where all differences are 0, as for two equal methods.
    """
    gaps = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if len(gaps) < 2:
        return None
    spread = gaps.std(ddof=1)
    if spread == 0:
        return 1.0 if gaps.mean() == 0 else 0.0
    t = gaps.mean() / (spread / np.sqrt(len(gaps)))
    return float(2 * stats.t.sf(abs(t), len(gaps) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of p values that are read together, in their order."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.minimum(1.0, np.maximum.accumulate(scaled))
    return [float(corrected[i]) for i in np.argsort(order)]


def overlap_coefficient(
    first: Sequence[float], second: Sequence[float], *, bins: int = 20
) -> float | None:
    """Shared area of two densities over [0, 1] by histogram: 0 apart, 1 equal (Weitzman 1970)."""
    if not len(first) or not len(second):
        return None
    edges = np.linspace(0, 1, bins + 1)
    shares = [np.histogram(v, edges)[0] / len(v) for v in (first, second)]
    return float(np.minimum(*shares).sum())
