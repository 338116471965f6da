"""Which classes a target is taken for: out-of-fold probabilities → confusion → source classes."""

import hashlib

import numpy as np
import pandas as pd


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean out-of-fold probability per true class: rows true, columns predicted, both sorted.

    `predictions` has columns label, predicted, probability: one task's predictions table. Hard
    counts would be too few at five shots.
    """
    pairs = predictions.groupby(["label", "predicted"])["probability"]
    return pairs.mean().unstack()


def source_classes(matrix: pd.DataFrame, *, strategy: str, top_k: int, seed: int) -> pd.DataFrame:
    """Columns target, source, rank (1 = first choice) for every class of the confusion matrix.

    `confusion`: the k classes that the target's images are most often taken for (its row), ties
    by class name. `distant`: the k they are least often taken for. `random`: k other classes in an
    order keyed by (seed, target). `all`: every other class. Fewer than k others: all of them.
    """
    rows = []
    for target in matrix.index:
        others = sorted(c for c in matrix.columns if c != target)
        if strategy in ("confusion", "distant"):
            sign = -1 if strategy == "confusion" else 1
            others.sort(key=lambda c: sign * matrix.loc[target, c])
        elif strategy == "random":
            keyed = int.from_bytes(hashlib.sha256(f"{seed}|{target}".encode()).digest()[:8])
            others = list(np.random.default_rng(keyed).permutation(others))
        kept = others if strategy == "all" else others[:top_k]
        rows += [(target, source, rank) for rank, source in enumerate(kept, start=1)]
    return pd.DataFrame(rows, columns=["target", "source", "rank"])


def boundary_pairs(matrix: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs of classes, each in order of name, that lie nearest the decision boundary.

    Every class with the class its images are most often taken for; a pair named by both is one.
    A class that was taken for no other names none, as in 1-shot tasks, which have no folds.
    """
    ranked = source_classes(matrix, strategy="confusion", top_k=1, seed=0)
    pairs = zip(ranked["target"], ranked["source"], strict=True)
    return sorted({(min(a, b), max(a, b)) for a, b in pairs if matrix.loc[a, b] > 0})
