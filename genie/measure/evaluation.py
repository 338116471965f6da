"""Computation of the tables and the summary in `metrics/` from predictions."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from genie.classify.backbone import ImageModel, class_names, classify
from genie.classify.classifier import Classifier, predict_proba
from genie.classify.examples import Examples
from genie.data.tasks import shot_groups, task_ids
from genie.measure.metrics import (
    GROUPS,
    SHARE,
    boundary_accuracy,
    class_accuracies,
    group_accuracies,
    interval,
)
from genie.tables import SCORES, VERDICTS, empty

log = logging.getLogger(__name__)


def predict_queries(
    classifier: Classifier, queries: Examples, pairs: Sequence[tuple[str, str]]
) -> tuple[pd.DataFrame, float | None]:
    """Return predictions for a task's query images (label, predicted) and the boundary accuracy.

    `pairs` are classes that are mistaken for one another (`classify.confusion.boundary_pairs`).
    """
    shares = predict_proba(classifier, queries)
    called = np.array(classifier.classes)[shares.argmax(1)]
    near = boundary_accuracy(shares, queries.labels, classes=classifier.classes, pairs=pairs)
    return pd.DataFrame({"label": queries.labels, "predicted": called}), near


def score_table(
    predictions: pd.DataFrame, *, tasks: pd.DataFrame, boundary: pd.DataFrame
) -> pd.DataFrame:
    """Compute the accuracy in [0, 1] per task and model, overall and by group of training counts.

    `predictions` has the columns task, model, label and predicted. `tasks` is the tasks table.
    `boundary` has the columns task, model and boundary, the accuracy between classes that are
    mistaken for one another.
    """
    rows = []
    ids, support = task_ids(tasks), tasks[tasks["role"] == "support"]
    group_of = {
        task: shot_groups(labels.value_counts())
        for task, labels in support.groupby("task")["label"]
    }
    for (task, model), queries in predictions.groupby(["task", "model"]):
        per_class = class_accuracies(queries["label"].to_numpy(), queries["predicted"].to_numpy())
        accuracy = round(float((queries["label"] == queries["predicted"]).mean()), 6)
        group = group_accuracies(per_class, group_of[task])
        row = {"task": task, "task_id": ids[task], "model": model, "accuracy": accuracy}
        rows.append(row | {"queries": len(queries), **group})
    table = pd.DataFrame(rows).merge(boundary, on=["task", "model"], how="left")
    return table.loc[:, list(SCORES)]


def class_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute the accuracy per class and model, averaged over tasks."""
    correct = predictions.assign(accuracy=predictions["label"] == predictions["predicted"])
    by_task = correct.groupby(["label", "model", "task"])["accuracy"].mean().reset_index()
    grouped = by_task.groupby(["label", "model"])
    table = grouped.agg(accuracy=("accuracy", "mean"), tasks=("task", "nunique")).reset_index()
    return table.assign(accuracy=table["accuracy"].round(6))


def verdicts(
    members: pd.DataFrame, images: Sequence[Image.Image], *, oracle: ImageModel
) -> pd.DataFrame:
    """Return the oracle's class for each distinct generated image, and whether it is the label T.

    `images` are those of the distinct file names, sorted. If the oracle lacks a class, its verdicts
    are meaningless. The table is then empty, and a warning names the class.
    """
    table = members.drop_duplicates("file_name").sort_values("file_name")
    if table.empty:
        return empty(VERDICTS)
    names = class_names(oracle)
    unknown = sorted(set(table["label"]) - set(names))
    if unknown:
        log.warning(
            "oracle.model does not know the class %r, so label consistency is not measured; "
            "give a classifier with these classes to measure it",
            unknown[0],
        )
        return empty(VERDICTS)
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
    """Return the summary for metrics/evaluate.json.

    Accuracies are in [0, 1]. Accuracies and gains are means with 95% t-intervals over tasks, whose
    bounds are None for one task. Gains are paired by task. `gain_many`, `gain_medium` and
    `gain_few` are present only if some task has such classes. `mean_r` and `label_consistency` are
    None without images or verdicts.
    """
    wide = scores.pivot(index="task", columns="model", values="accuracy")
    near = scores.pivot(index="task", columns="model", values="boundary").astype(float)
    summary: dict[str, Any] = {
        "baseline": interval(wide["baseline"], bounds=SHARE),
        "augmented": interval(wide["augmented"], bounds=SHARE),
        "gain": interval(wide["augmented"] - wide["baseline"]),
        "gain_boundary": interval((near["augmented"] - near["baseline"]).dropna()),
        "images": int(members["file_name"].nunique()),
        "mean_r": _rounded(members["r"].astype(float).mean()),
        "label_consistency": _rounded(verdicts["consistent"].astype(float).mean()),
    }
    for group in GROUPS:
        grouped = scores.pivot(index="task", columns="model", values=group).dropna()
        if len(grouped):
            summary[f"gain_{group}"] = interval(grouped["augmented"] - grouped["baseline"])
    return summary


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
