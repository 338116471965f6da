"""From predictions to the tables and the summary of `metrics/`."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from genie.backbones import ImageModel, class_names, classify
from genie.metrics import class_accuracies, group_accuracies, interval
from genie.records import VERDICT_COLUMNS
from genie.tasks import groups

SCORE_COLUMNS = ("task", "model", "accuracy", "boundary", "many", "medium", "few", "queries")
CLASS_COLUMNS = ("label", "model", "accuracy", "tasks")

_log = logging.getLogger(__name__)


def score_table(
    predictions: pd.DataFrame, *, support: pd.DataFrame, boundary: pd.DataFrame
) -> pd.DataFrame:
    """Accuracy in [0, 1] per task and model, overall and by group of training counts.

    `predictions` has columns task, model, label, predicted; `support` the tasks' support rows;
    `boundary` the accuracy between classes that are taken for one another (task, model, boundary).
    """
    rows = []
    group_of = {
        task: groups(labels.value_counts()) for task, labels in support.groupby("task")["label"]
    }
    for (task, model), own in predictions.groupby(["task", "model"]):
        per_class = class_accuracies(own["label"].to_numpy(), own["predicted"].to_numpy())
        accuracy = round(float((own["label"] == own["predicted"]).mean()), 6)
        group = group_accuracies(per_class, group_of[task])
        rows.append(
            {"task": task, "model": model, "accuracy": accuracy, "queries": len(own), **group}
        )
    table = pd.DataFrame(rows).merge(boundary, on=["task", "model"], how="left")
    return table.loc[:, list(SCORE_COLUMNS)]


def class_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy per class and model, mean over tasks."""
    correct = predictions.assign(accuracy=predictions["label"] == predictions["predicted"])
    by_task = correct.groupby(["label", "model", "task"])["accuracy"].mean().reset_index()
    grouped = by_task.groupby(["label", "model"])
    table = grouped.agg(accuracy=("accuracy", "mean"), tasks=("task", "nunique")).reset_index()
    return table.assign(accuracy=table["accuracy"].round(6))


def verdicts(
    members: pd.DataFrame, images: Sequence[Image.Image], *, oracle: ImageModel
) -> pd.DataFrame:
    """What the oracle calls each distinct generated image, and whether that is its label T.

    `images` belong to the distinct file names, sorted. If the oracle does not know a class, a
    warning names it and the table is empty: its verdicts would mean nothing.
    """
    table = members.drop_duplicates("file_name").sort_values("file_name")
    names = class_names(oracle)
    unknown = sorted(set(table["label"]) - set(names))
    if unknown:
        _log.warning(
            "oracle.model does not know the class %r, so label consistency is not measured; "
            "give a classifier with these classes to measure it",
            unknown[0],
        )
        return pd.DataFrame(columns=list(VERDICT_COLUMNS))
    probabilities = classify(images, model=oracle)
    called = np.array(names)[probabilities.argmax(1)]
    return table[["key", "label"]].assign(
        verdict=called,
        probability=probabilities.max(1).round(4),
        consistent=called == table["label"].to_numpy(),
    )


def summarise(
    scores: pd.DataFrame, *, members: pd.DataFrame, verdicts: pd.DataFrame
) -> dict[str, Any]:
    """Baseline and augmented accuracy, their paired difference, and facts on the images.

    Intervals are 95% t-intervals over tasks (null for one task); `gain` is paired by task.
    """
    wide = scores.pivot(index="task", columns="model", values="accuracy")
    near = scores.pivot(index="task", columns="model", values="boundary").astype(float)
    summary: dict[str, Any] = {
        "baseline": interval(wide["baseline"]),
        "augmented": interval(wide["augmented"]),
        "gain": interval(wide["augmented"] - wide["baseline"]),
        "gain_boundary": interval((near["augmented"] - near["baseline"]).dropna()),
        "images": int(members["file_name"].nunique()),
        "mean_r": _rounded(members["r"].astype(float).mean()),
        "label_consistency": _rounded(verdicts["consistent"].astype(float).mean()),
    }
    for group in ("many", "medium", "few"):
        grouped = scores.pivot(index="task", columns="model", values=group).dropna()
        if len(grouped):
            summary[f"gain_{group}"] = interval(grouped["augmented"] - grouped["baseline"])
    return summary


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
