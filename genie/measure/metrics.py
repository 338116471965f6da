"""Accuracies, confidence intervals over tasks, and paired tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # as scipy.stats.t, which is slow to import

GROUPS = ("many", "medium", "few")
"""Groups of classes by their number of training images (`data.tasks.shot_group`)."""

SHARES = ("boundary", *GROUPS)
"""The columns of accuracies on parts of the query images."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval over n tasks or seeds; undefined values are None."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


SHARE = (0.0, 1.0)
DIFFERENCE = (-1.0, 1.0)


def interval(
    values: Sequence[float], *, bounds: tuple[float, float] = DIFFERENCE, shared: float = 0.0
) -> Interval:
    """Return the mean ± t(0.975, n-1) s times `spread_of_mean`; one value has no interval.

    The interval is cut off at `bounds`, the values that are possible: DIFFERENCE for differences of
    shares, SHARE for shares. With two values it would often exceed them. `shared` in [0, 1] is the
    share of support images that two tasks have in common; at 0 this is Student's t, and at 1 all
    tasks have one support set, so there is no interval either.
    """
    array = np.asarray(values, dtype=float)
    n = len(array)
    if n == 0:
        return Interval(None, None, None, 0)
    mean = float(array.mean())
    if n == 1 or shared == 1:
        return Interval(round(mean, 6), None, None, n)
    half = float(stdtrit(n - 1, 0.975) * array.std(ddof=1) * spread_of_mean(n, shared))
    low, high = max(mean - half, bounds[0]), min(mean + half, bounds[1])
    return Interval(round(mean, 6), round(low, 6), round(high, 6), n)


def spread_of_mean(n: int, shared: float) -> float:
    """Return how far a mean over n tasks moves, in standard deviations of one task.

    For tasks that share a part of their support images, it is sqrt(1/n + shared / (1 - shared)):
    the spread between tasks does not include the variance due to shared images, and more tasks do
    not reduce that variance (Nadeau and Bengio 2003, Inference for the generalization error,
    equation 9, for the correlation `shared`). The result is an upper bound, because it attributes
    all spread to support images, while query images and noise differ between tasks as well. With
    shared = 0 it is 1 / sqrt(n).
    """
    return float(np.sqrt(1 / n + shared / (1 - shared)))


def percent(
    mean: float | None, low: float | None = None, high: float | None = None, *, signed: bool = False
) -> str:
    """Return a share as percent with half the width of its interval, such as "72.5 ± 0.7".

    None and NaN give an empty text. This is the one way in which intervals are printed.
    """
    if mean is None or np.isnan(mean):
        return ""
    text = f"{100 * mean:+.1f}" if signed else f"{100 * mean:.1f}"
    if low is None or high is None or np.isnan(low):
        return text
    return f"{text} ± {50 * (high - low):.1f}"


def class_accuracies(labels: np.ndarray, predicted: np.ndarray) -> pd.Series:
    """Return the accuracy in [0, 1] per true class, sorted by class name."""
    correct = pd.Series(np.asarray(labels) == np.asarray(predicted))
    return correct.groupby(np.asarray(labels)).mean().sort_index()


def group_accuracies(per_class: pd.Series, groups: pd.Series) -> dict[str, float | None]:
    """Return the mean per-class accuracy of the groups many, medium and few (None if empty)."""
    result: dict[str, float | None] = {}
    for group in GROUPS:
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
    """Return the accuracy of choosing between a and b on their images, averaged over pairs (a, b).

    `probabilities` (n, c) has the columns `classes`; `labels` is (n,). Chance level is about 0.5.
    Return None if no pair has images.
    """
    column = {c: i for i, c in enumerate(classes)}
    truth = np.asarray(labels)
    scores = []
    for a, b in pairs:
        in_pair = np.isin(truth, (a, b))
        if in_pair.any():
            predicted_a = probabilities[in_pair, column[a]] >= probabilities[in_pair, column[b]]
            scores.append(float((predicted_a == (truth[in_pair] == a)).mean()))
    return round(float(np.mean(scores)), 6) if scores else None


def paired_p(
    first: Sequence[float], second: Sequence[float], *, shared: float = 0.0
) -> float | None:
    """Return the two-sided p-value of the paired t-test over tasks; None without an interval.

    The p-value is 1 if all differences are 0, as for two identical methods. `shared` is as in
    `interval`.
    """
    gaps = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if len(gaps) < 2 or shared == 1:
        return None
    spread = gaps.std(ddof=1)
    if spread == 0:
        return 1.0 if gaps.mean() == 0 else 0.0
    t = gaps.mean() / (spread * spread_of_mean(len(gaps), shared))
    return float(2 * stdtr(len(gaps) - 1, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction (1979) to a family of p-values, keeping their order."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.minimum(1.0, np.maximum.accumulate(scaled))
    return [float(corrected[i]) for i in np.argsort(order)]


def overlap_coefficient(
    first: Sequence[float], second: Sequence[float], *, bins: int = 20
) -> float | None:
    """Return the overlap of two densities on [0, 1], estimated by histogram (Weitzman 1970).

    It is 0 for disjoint densities, 1 for equal ones and None if either sample is empty.
    """
    if not len(first) or not len(second):
        return None
    edges = np.linspace(0, 1, bins + 1)
    shares = [np.histogram(v, edges)[0] / len(v) for v in (first, second)]
    return float(np.minimum(*shares).sum())
