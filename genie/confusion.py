"""Which classes a target is taken for: out-of-fold probabilities → confusion → source classes."""

import hashlib

import numpy as np
import pandas as pd


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean out-of-fold probability per true class: rows true, columns predicted, both sorted.

    `predictions` has columns label, predicted, probability: one task's predictions table. Hard
    counts would be too few at five shots.
    """
    return predictions.pivot_table(
        index="label", columns="predicted", values="probability", aggfunc="mean"
    ).sort_index()


def source_classes(matrix: pd.DataFrame, *, strategy: str, top_k: int, seed: int) -> pd.DataFrame:
    """Columns target, source, rank (1 = first choice) for every class of the confusion matrix.

    `confusion`: the k classes that the target's images are most often taken for (its row), ties
    by class name. `random`: k other classes in an order keyed by (seed, target). `all`: every
    other class. Fewer than k others: all of them.
    """
    rows = []
    for target in matrix.index:
        others = sorted(c for c in matrix.columns if c != target)
        if strategy == "confusion":
            others.sort(key=lambda c: -matrix.loc[target, c])
        elif strategy == "random":
            keyed = int.from_bytes(hashlib.sha256(f"{seed}|{target}".encode()).digest()[:8])
            others = list(np.random.default_rng(keyed).permutation(others))
        kept = others if strategy == "all" else others[:top_k]
        rows += [(target, source, rank) for rank, source in enumerate(kept, start=1)]
    return pd.DataFrame(rows, columns=["target", "source", "rank"])
