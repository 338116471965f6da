"""Accuracies, confidence intervals over tasks or query images, and paired tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # as scipy.stats.t, which is slow to import

from genie.core.seeding import numbered_rng

GROUPS = ("many", "medium", "few")
"""Groups of classes by number of training images (`data.tasks.shot_group`)."""


@dataclass(frozen=True)
class Interval:
    """A mean with a 95% interval over n tasks, seeds or images; undefined values are None."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


SHARE = (0.0, 1.0)
DIFFERENCE = (-1.0, 1.0)

RESAMPLES, BLOCK = 2000, 100
IMAGINED = {SHARE: (0, 0, 1, 1), DIFFERENCE: (-1, 0, 0, 1)}
"""The values of four imagined images: each of two models is right on two and wrong on two."""


def interval(
    values: Sequence[float], *, bounds: tuple[float, float] = DIFFERENCE, shared: float = 0.0
) -> Interval:
    """Return the mean ± t(0.975, n-1) s times `spread_of_mean`; one value gives no interval.

    The interval is clipped to `bounds`, the range of possible values (DIFFERENCE for differences
    between shares, SHARE for shares), because an interval from two values would often exceed it.
    `shared` in [0, 1] is the share of support images that two tasks have in common. If `shared` is
    0, the interval is Student's t. If it is 1, all tasks have the same support set, so there is no
    interval.
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


def bootstrap(
    values: np.ndarray, groups: Sequence[object], *, bounds: tuple[float, float] = DIFFERENCE
) -> Interval:
    """Return the mean over images with a percentile bootstrap interval (95%).

    `values` (n, k) has a row per image and a column per part, and is NaN where an image is not in a
    part. The mean of each part is computed first, and then the mean over parts. `groups` (n,) gives
    the group of each image; images in the same group, such as near-duplicates, are drawn together.
    To compare two models, pass the differences as `values`, so that each draw is paired.

    Four imagined groups (IMAGINED) are drawn as well. Without them, the interval would be too
    narrow for few images, and empty for models that never differ (Agresti and Coull 1998; Agresti
    and Min 2005). `bounds` is the range of possible values, SHARE or DIFFERENCE.
    """
    known = ~np.isnan(values)
    if not known.any():
        return Interval(None, None, None, 0)
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    totals, counts = (np.zeros((len(names), values.shape[1])) for _ in range(2))
    np.add.at(totals, place, np.nan_to_num(values))
    np.add.at(counts, place, known)
    mean = float(_mean_of_parts(totals.sum(0), counts.sum(0)))
    used = counts.any(1)
    size = counts[used].sum() / used.sum() / values.shape[1]
    imagined = np.repeat(np.array(IMAGINED[bounds], float)[:, None], values.shape[1], axis=1)
    totals = np.vstack([totals[used], size * imagined])
    counts = np.vstack([counts[used], np.full_like(imagined, size)])
    rng, number, means = numbered_rng(0, label="bootstrap"), len(totals), []
    for _ in range(RESAMPLES // BLOCK):  # a matrix of all resamples would be large
        drawn = rng.integers(0, number, (BLOCK, number)) + number * np.arange(BLOCK)[:, None]
        times = np.bincount(drawn.ravel(), minlength=BLOCK * number).reshape(BLOCK, number)
        means.append(_mean_of_parts(times @ totals, times @ counts))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    low, high = min(low, mean), max(high, mean)
    n = int(known.any(1).sum())
    return Interval(round(mean, 6), round(float(low), 6), round(float(high), 6), n)


def _mean_of_parts(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean of totals / counts (..., k) over the parts that contain images."""
    shares = np.full(totals.shape, np.nan)
    np.divide(totals, counts, out=shares, where=counts > 0)
    return np.nanmean(shares, axis=-1)


def spread_of_mean(n: int, shared: float) -> float:
    """Return the standard error of a mean over n tasks, in standard deviations between tasks.

    For tasks that share a part of their support images, the result is sqrt(1/n + shared / (1 -
    shared)). The spread between tasks does not include the variance due to shared images, and more
    tasks do not reduce this variance (Nadeau and Bengio 2003, Inference for the generalization
    error, equation 9, for the correlation `shared`). The result is an upper bound, because it
    attributes all spread to support images, although query images and noise differ between tasks
    too. If `shared` is 0, the result is 1 / sqrt(n). For random splits of the same images, `shared`
    is the share of query images.
    """
    return float(np.sqrt(1 / n + shared / (1 - shared)))


def percent(
    mean: float | None, low: float | None = None, high: float | None = None, *, signed: bool = False
) -> str:
    """Return a share in percent and half the width of its interval, such as "72.5 ± 0.7".

    None and NaN give an empty string. All printed intervals use this function, except bootstrap
    intervals (`interval_text`), whose ends are not equally far from the mean.
    """
    if mean is None or np.isnan(mean):
        return ""
    text = f"{100 * mean:+.1f}" if signed else f"{100 * mean:.1f}"
    if low is None or high is None or np.isnan(low):
        return text
    return f"{text} ± {50 * (high - low):.1f}"


def interval_text(value: Mapping[str, Any], over: str, *, signed: bool = False) -> tuple[str, str]:
    """Format an interval from metrics/evaluate.json as a percentage and a description.

    An example is ("72.5 ± 0.7", "95% interval, n = 5 tasks").
    """
    mean, low, high, n = (value[key] for key in ("mean", "low", "high", "n"))
    if over != "query images":
        return percent(mean, low, high, signed=signed), f"95% interval, n = {n} {over}"
    ends = " to ".join(percent(end, signed=signed) for end in (low, high))
    return percent(mean, signed=signed), f"95% interval {ends}, n = {n} {over}"


def class_accuracies(labels: np.ndarray, predicted: np.ndarray) -> pd.Series:
    """Return the accuracy in [0, 1] per true class, sorted by class name."""
    correct = pd.Series(np.asarray(labels) == np.asarray(predicted))
    return correct.groupby(np.asarray(labels)).mean().sort_index()


def group_accuracies(per_class: pd.Series, groups: pd.Series) -> dict[str, float | None]:
    """Return the mean per-class accuracy in the groups many, medium and few; None if empty."""
    result: dict[str, float | None] = {}
    for group in GROUPS:
        members = [c for c in per_class.index if groups[c] == group]
        result[group] = round(float(per_class[members].mean()), 6) if members else None
    return result


def boundary_right(
    probabilities: np.ndarray,
    labels: Sequence[str],
    *,
    classes: Sequence[str],
    pairs: Sequence[tuple[str, str]],
) -> np.ndarray:
    """Return whether the model chooses the right class of each pair, by image and pair (n, p).

    `probabilities` (n, c) has the columns `classes`, and `labels` has shape (n,). Values are 1 or
    0, or NaN if the image belongs to neither class of the pair. Chance level is about 0.5.
    """
    column = {c: i for i, c in enumerate(classes)}
    truth = np.asarray(labels)
    right = np.full((len(truth), len(pairs)), np.nan)
    for number, (a, b) in enumerate(pairs):
        in_pair = np.isin(truth, (a, b))
        predicted_a = probabilities[in_pair, column[a]] >= probabilities[in_pair, column[b]]
        right[in_pair, number] = predicted_a == (truth[in_pair] == a)
    return right


def mean_of_parts(values: np.ndarray) -> float:
    """Return the mean over parts of the parts' means; see `bootstrap` for `values`."""
    known = ~np.isnan(values)
    return float(_mean_of_parts(np.nan_to_num(values).sum(0), known.sum(0)))


def paired_p(
    first: Sequence[float], second: Sequence[float], *, shared: float = 0.0
) -> float | None:
    """Return the two-sided p-value of the paired t-test over tasks, or None without an interval.

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
    """Return the overlap of two densities on [0, 1], estimated by histograms (Weitzman 1970).

    The overlap is 0 for disjoint densities, 1 for equal densities, and None if a sample is empty.
    """
    if not len(first) or not len(second):
        return None
    edges = np.linspace(0, 1, bins + 1)
    shares = [np.histogram(v, edges)[0] / len(v) for v in (first, second)]
    return float(np.minimum(*shares).sum())
