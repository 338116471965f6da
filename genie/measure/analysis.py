"""Analysis of recorded trajectories: the decision boundary, positions and choices.

See section 4.3 and Figures 5, 6, A1, A2 and A5 of the paper.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from genie.classify.examples import Examples, weights_of
from genie.classify.heads import fit_svm, head_probabilities
from genie.core.tables import CHOICES, LEVELS, TRAJECTORIES, UNCLEAR, empty
from genie.measure.metrics import overlap_coefficient

ADA = "GeNIe-Ada"
PAIR = ["task", "target_label", "source_id", "replicate"]
"""The columns that identify a trajectory in a table."""


def between_classes(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of trajectories whose source and target classes differ."""
    edited = trajectories[trajectories["source_label"].notna()]
    return edited[edited["source_label"] != edited["target_label"]]


def boundary_probabilities(
    trajectories: pd.DataFrame, support: Mapping[int, Examples], *, seed: int
) -> pd.DataFrame:
    """Compute P(S|X_r) and P(T|X_r) for every rendered image with a source of another class.

    The probabilities are the softmax of the margins of an SVM, which is fitted on the embeddings of
    the task's support images alone.
    """
    tables = []
    for task, rows in between_classes(trajectories).groupby("task"):
        real = support[int(task)]
        classes, targets = np.unique(real.labels, return_inverse=True)
        svm = fit_svm(real.embeddings, targets, weights_of(real), seed)
        shares = head_probabilities(svm, np.stack(list(rows["embedding"])))
        column = {label: i for i, label in enumerate(classes)}
        every = np.arange(len(rows))
        tables.append(
            rows.assign(
                p_source=shares[every, rows["source_label"].map(column)],
                p_target=shares[every, rows["target_label"].map(column)],
            )
        )
    if not tables:
        return empty({**TRAJECTORIES, "p_source": float, "p_target": float})
    return pd.concat(tables)


def by_ratio(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Group rows by noise ratio; return the title and the rows of each group.

    If there are several ratios, the last group contains the chosen images.
    """
    groups = [(f"r = {r:g}", rows) for r, rows in table.groupby("r")]
    return [*groups, (ADA, table[table["chosen"]])] if len(groups) > 1 else groups


def by_level(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise the table from `boundary_probabilities`, with one row per noise ratio.

    Another row summarises the chosen images. The columns are the means of the two probabilities,
    the overlap coefficient of their densities in [0, 1], the mean position on the axis, and the
    share of images that the baseline classifies as T. Each task has its own SVM, so the overlap is
    computed per task and averaged (paper A.1). With previews (column `steps` of the trajectories),
    the row of a noise ratio mixes previews and full images, while the row of the chosen images has
    full images only.
    """
    rows = [
        {
            "level": name,
            "images": len(group),
            "p_source": group["p_source"].mean(),
            "p_target": group["p_target"].mean(),
            "overlap": mean_overlap(group),
            "position": group["position"].astype(float).mean(),
            "predicted_target": group["predicted_target"].astype(float).mean(),
        }
        for name, group in by_ratio(table)
    ]
    return pd.DataFrame(rows, columns=list(LEVELS)).round(6)


def mean_overlap(table: pd.DataFrame) -> float | None:
    """Return the overlap of p_source and p_target, averaged over tasks, or None without rows."""
    overlaps = [
        overlap_coefficient(rows["p_source"], rows["p_target"]) for _, rows in table.groupby("task")
    ]
    return float(np.mean([o for o in overlaps if o is not None])) if overlaps else None


def choices(trajectories: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Summarise the choices between levels, with a row per chosen noise ratio and a row "all".

    The columns are the number of images, the median `shift_ratio` (largest shift / second largest),
    the share of unclear choices (ratio below UNCLEAR), and the shares of images that the baseline
    and the oracle classify as T (NaN if there are no verdicts).
    """
    chosen = trajectories[trajectories["chosen"] & trajectories["shift_ratio"].notna()]
    groups = [(f"{r:g}", group) for r, group in chosen.groupby("r")]
    consistent = verdicts.set_index("key")["consistent"].astype(float)
    rows = [
        {
            "r": name,
            "images": len(group),
            "shift_ratio": group["shift_ratio"].astype(float).median(),
            "unclear": (group["shift_ratio"].astype(float) < UNCLEAR).mean(),
            "predicted_target": group["predicted_target"].astype(float).mean(),
            "label_consistency": group["key"].map(consistent).mean(),
        }
        for name, group in ([*groups, ("all", chosen)] if len(chosen) else [])
    ]
    return pd.DataFrame(rows, columns=list(CHOICES)).round(6)


def failures(members: pd.DataFrame, verdicts: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return up to `count` generated images that the oracle assigns to a class other than T.

    The result has the columns of the members table, and the oracle's verdict with its probability.
    Each image occurs once, and the most confident verdicts come first.
    """
    judged = members.drop_duplicates("key").merge(
        verdicts[["key", "verdict", "probability", "consistent"]], on="key"
    )
    wrong = judged[~judged["consistent"].astype(bool)]
    return wrong.sort_values(["probability", "key"], ascending=[False, True]).head(count)


def confusion_change(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Compare two confusion matrices, with a row per pair of true and predicted classes.

    `before` and `after` have the columns of PREDICTED. The result has the columns label and
    predicted, and in `before` and `after` the shares in [0, 1] of the label's images with this
    prediction.
    """
    classes = sorted({*before["label"], *after["label"], *before["predicted"], *after["predicted"]})
    index = pd.MultiIndex.from_product([classes, classes], names=["label", "predicted"])
    counts = [t.groupby(["label", "predicted"]).size() for t in (before, after)]
    wide = pd.DataFrame(dict(zip(("before", "after"), counts, strict=True)), index=index).fillna(0)
    shares = wide / wide.groupby("label").transform("sum")
    return shares.dropna().reset_index()


def plane(vectors: np.ndarray) -> np.ndarray:
    """Project embeddings (n, d) onto their first two principal components, (n, 2)."""
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes[:2].T
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))


def rows_of_trajectories(table: pd.DataFrame) -> list[np.ndarray]:
    """Return the row numbers of each trajectory by ascending level, in table order."""
    number = table.groupby(PAIR, sort=False, dropna=False).ngroup().to_numpy()
    order = np.lexsort((table["level"].to_numpy(), number))
    return np.split(order, np.cumsum(np.bincount(number))[:-1]) if len(table) else []


def single_trajectories(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of each trajectory in ascending level; trajectories are in table order."""
    return [table.iloc[rows] for rows in rows_of_trajectories(table)]


def spread_out(table: pd.DataFrame, count: int) -> Sequence[pd.DataFrame]:
    """Return `count` evenly spaced trajectories among those with a source and a chosen level."""
    edited = table[table["source_id"].notna()].sort_values(PAIR)
    chosen = edited["chosen"].to_numpy(bool)
    eligible = [rows for rows in rows_of_trajectories(edited) if chosen[rows].any()]
    if not eligible:
        return []
    places = np.linspace(0, len(eligible) - 1, min(count, len(eligible)))
    return [edited.iloc[eligible[i]] for i in np.unique(places.round().astype(int))]
