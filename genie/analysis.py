"""Why it works, measured on the trajectories: the decision boundary, the way of the embeddings.

Sources: paper section 4.3, Figures 5, 6, A1, A2 and A5.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from genie.classifiers import Examples, TrainingSettings, fit, predict_proba
from genie.metrics import overlap_coefficient

ADA = "GeNIe-Ada"
BOUNDARY_COLUMNS = ("task", "source_label", "target_label", "r", "chosen", "p_source", "p_target")
CHOICE_COLUMNS = (
    *("r", "images", "shift_ratio", "unclear", "called_target"),
    "label_consistency",
)
LEVEL_COLUMNS = (
    *("level", "images", "p_source", "p_target", "overlap", "position"),
    "called_target",
)


def boundary(
    trajectories: pd.DataFrame, support: Mapping[int, Examples], *, settings: TrainingSettings
) -> pd.DataFrame:
    """P(S|X_r) and P(T|X_r) of every rendered image that has a source of another class.

    By an SVM fitted on the embeddings of its task's support images alone (softmax of its margins).
    """
    tables = []
    edited = trajectories[trajectories["source_label"].notna()]
    for task, rows in edited[edited["source_label"] != edited["target_label"]].groupby("task"):
        model = fit("svm", support[int(task)], settings=settings)
        z = np.stack(list(rows["embedding"]))
        shares = predict_proba(model, Examples([], z, [""] * len(z)), settings=settings)
        column = {label: i for i, label in enumerate(model.classes)}
        every = np.arange(len(rows))
        tables.append(
            rows.assign(
                p_source=shares[every, rows["source_label"].map(column)],
                p_target=shares[every, rows["target_label"].map(column)],
            )
        )
    if not tables:
        empty = pd.DataFrame(columns=[*BOUNDARY_COLUMNS, "position", "called_target"])
        return empty.astype({"chosen": bool, "r": float})
    return pd.concat(tables)


def by_level(table: pd.DataFrame) -> pd.DataFrame:
    """A row per noise ratio and one for the chosen images, from the table of `boundary`.

    With previews (column `steps` of the trajectories) a level's row mixes previews and full images;
    the row of the chosen ones has full images alone. Means of the two probabilities, the overlap
    coefficient of their densities in [0, 1], the mean position on the axis, and the share that the
    baseline calls T.
    """
    groups = [(f"r = {r:g}", rows) for r, rows in table.groupby("r")]
    if len(groups) > 1:
        groups.append((ADA, table[table["chosen"]]))
    rows = [
        {
            "level": name,
            "images": len(own),
            "p_source": own["p_source"].mean(),
            "p_target": own["p_target"].mean(),
            "overlap": overlap_coefficient(own["p_source"], own["p_target"]),
            "position": own["position"].astype(float).mean(),
            "called_target": own["called_target"].astype(float).mean(),
        }
        for name, own in groups
    ]
    return pd.DataFrame(rows, columns=list(LEVEL_COLUMNS)).round(6)


def choices(
    trajectories: pd.DataFrame, verdicts: pd.DataFrame, *, unclear_below: float
) -> pd.DataFrame:
    """A row per chosen noise ratio, where levels competed, and one for all of them ("all").

    Images, median of the largest shift over the second largest, the share whose choice was unclear
    (a ratio below `unclear_below`), the share that the baseline calls T, and the share that the
    oracle calls T (NaN without verdicts).
    """
    chosen = trajectories[trajectories["chosen"] & trajectories["shift_ratio"].notna()]
    groups = [(f"{r:g}", own) for r, own in chosen.groupby("r")]
    consistent = verdicts.set_index("key")["consistent"].astype(float)
    rows = [
        {
            "r": name,
            "images": len(own),
            "shift_ratio": own["shift_ratio"].astype(float).median(),
            "unclear": (own["shift_ratio"].astype(float) < unclear_below).mean(),
            "called_target": own["called_target"].astype(float).mean(),
            "label_consistency": own["key"].map(consistent).mean(),
        }
        for name, own in ([*groups, ("all", chosen)] if len(chosen) else [])
    ]
    return pd.DataFrame(rows, columns=list(CHOICE_COLUMNS)).round(6)


def failures(members: pd.DataFrame, verdicts: pd.DataFrame, count: int) -> pd.DataFrame:
    """Up to `count` generated images that the oracle does not call by their label.

    The members table's columns with the oracle's verdict and its probability, the surest verdicts
    first, each image once.
    """
    judged = members.drop_duplicates("key").merge(
        verdicts[["key", "verdict", "probability", "consistent"]], on="key"
    )
    wrong = judged[~judged["consistent"].astype(bool)]
    return wrong.sort_values(["probability", "key"], ascending=[False, True]).head(count)


def plane(vectors: np.ndarray) -> np.ndarray:
    """(n, d) embeddings on their first two principal components, (n, 2)."""
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes[:2].T
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))


def pairs(trajectories: pd.DataFrame, count: int) -> Sequence[pd.DataFrame]:
    """The trajectories of `count` (source, target, replicate), spread evenly over all of them."""
    keys = ["task", "target_label", "source_id", "replicate"]
    edited = trajectories[trajectories["source_id"].notna()]
    found = [
        rows.sort_values("level")
        for _, rows in edited.groupby(keys, sort=True)
        if rows["chosen"].any()  # else it was rejected
    ]
    if not found:
        return []
    chosen = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int))
    return [found[i] for i in chosen]
