"""Confusion between classes, from out-of-fold probabilities, and the choice of source classes."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from genie.core.seeding import identity_of, shuffled, task_seed


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return mean out-of-fold probabilities, with true classes as rows and predicted as columns.

    Rows and columns are sorted. `predictions` is the predictions table of one task, with the
    columns label, predicted and probability. Probabilities are averaged because, with five shots,
    counts of hard predictions would be too small.
    """
    pairs = predictions.groupby(["label", "predicted"])["probability"]
    return pairs.mean().unstack()


def source_classes(matrix: pd.DataFrame, *, strategy: str, top_k: int, seed: int) -> pd.DataFrame:
    """Return a table of target, source and rank (1 = first choice), with every class as a target.

    `strategy` is a key of STRATEGIES. If there are fewer than `top_k` other classes, all other
    classes are returned.
    """
    rows = []
    for target in matrix.index:
        shares = {c: matrix.loc[target, c] for c in sorted(matrix.columns) if c != target}
        kept = STRATEGIES[strategy](target, shares, top_k, seed)
        rows += [(target, source, rank) for rank, source in enumerate(kept, start=1)]
    return pd.DataFrame(rows, columns=["target", "source", "rank"])


def rank_sources(
    predictions: pd.DataFrame, *, strategy: str, top_k: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a task's confusion matrix and the ranked source classes of each target.

    `predictions` has the columns of PREDICTIONS for one task. Draws are keyed by the task's support
    set.
    """
    matrix = confusion(predictions)
    task = identity_of(predictions.drop_duplicates("image_id"))
    draw = task_seed(seed, task, "sources")
    return matrix, source_classes(matrix, strategy=strategy, top_k=top_k, seed=draw)


def boundary_pairs(matrix: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the most confused pairs of classes, each pair sorted by name.

    Each class is paired with the class that it is most often confused with. A pair found from both
    classes is listed once. A class without confusion gives no pair, as in 1-shot tasks, which have
    no folds.
    """
    ranked = source_classes(matrix, strategy="confusion", top_k=1, seed=0)
    pairs = zip(ranked["target"], ranked["source"], strict=True)
    return sorted({(min(a, b), max(a, b)) for a, b in pairs if matrix.loc[a, b] > 0})


Strategy = Callable[[str, Mapping[str, float], int, int], Sequence[str]]
"""A function of a target, its probabilities, `top_k` and a seed that returns source classes."""


def _most_confused(
    target: str, shares: Mapping[str, float], top_k: int, seed: int
) -> Sequence[str]:
    """Return the classes with the highest probabilities; break ties by class name."""
    return sorted(shares, key=lambda c: -shares[c])[:top_k]


def _least_confused(
    target: str, shares: Mapping[str, float], top_k: int, seed: int
) -> Sequence[str]:
    """Return the classes with the lowest probabilities; break ties by class name."""
    return sorted(shares, key=lambda c: shares[c])[:top_k]


def _random(target: str, shares: Mapping[str, float], top_k: int, seed: int) -> Sequence[str]:
    """Return `top_k` classes in a random order keyed by seed, target and class."""
    return shuffled(shares, lambda c: f"{seed}/{target}/{c}")[:top_k]


def _every(target: str, shares: Mapping[str, float], top_k: int, seed: int) -> Sequence[str]:
    """Return all other classes and ignore `top_k`."""
    return list(shares)


STRATEGIES: dict[str, Strategy] = {
    "confusion": _most_confused,
    "random": _random,
    "distant": _least_confused,
    "all": _every,
}
"""Strategies for choosing source classes, by name."""
