"""Evaluation of classifiers on query images, and of generated images by an oracle."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from genie.classify.backbone import ImageModel, class_names, classify
from genie.classify.classifier import Classifier, predict_proba
from genie.classify.confusion import boundary_pairs, confusion
from genie.classify.examples import Examples, load_examples, picker
from genie.classify.files import load_classifiers
from genie.core.progress import Progress, silent
from genie.core.tables import (
    CLASS_SCORES,
    CONFUSION,
    MEMBERS,
    PREDICTED,
    SCORES,
    TASKS,
    VERDICTS,
    empty,
    read_images,
    read_table,
    write_table,
)
from genie.data.augmented_set import read_set
from genie.data.near_duplicates import clusters
from genie.data.tasks import queries_per_class, shot_groups, task_ids
from genie.measure.metrics import (
    DIFFERENCE,
    GROUPS,
    SHARE,
    Interval,
    bootstrap,
    boundary_right,
    class_accuracies,
    group_accuracies,
    interval,
    mean_of_parts,
)

SUPPORT_SETS, SPLITS, ONLY_TASKS, QUERY_IMAGES = "support sets", "splits", "tasks", "query images"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """The inputs of the evaluation: query images, tasks, classifiers and generated images.

    `models` maps "baseline" and "augmented" to classifiers by task. `confusion` contains the
    matrices of all tasks (CONFUSION). `generated` contains the images of the set, sorted by file
    name.
    """

    queries: pd.DataFrame
    tasks: pd.DataFrame
    models: Mapping[str, Mapping[int, Classifier]]
    confusion: pd.DataFrame
    members: pd.DataFrame
    generated: Sequence[Image.Image]


@dataclass(frozen=True)
class Evaluation:
    """The predictions of both models for the query images, verdicts, scores and a summary."""

    predictions: pd.DataFrame
    verdicts: pd.DataFrame
    scores: pd.DataFrame
    summary: dict[str, Any]


def read_scored(root: Path) -> Scored:
    """Read the outputs of the stages before `evaluate` from a project folder.

    Raise MissingFileError if a file is missing, and InvalidValueError if a file is malformed.
    """
    members = read_table(root / "data/augmented/members.csv", MEMBERS)
    return Scored(
        queries=read_images(root / "data/prepared/query"),
        tasks=read_table(root / "data/prepared/tasks.csv", TASKS),
        models={n: load_classifiers(root / "models" / n) for n in ("baseline", "augmented")},
        confusion=read_table(root / "data/sources/confusion.csv", CONFUSION),
        members=members,
        generated=read_set(root / "data/augmented", members)[1],
    )


def evaluate(
    scored: Scored, *, backbone: ImageModel, oracle: ImageModel, progress: Progress = silent
) -> Evaluation:
    """Evaluate both models on each task's query images, and generated images with the oracle."""
    tasks = scored.tasks
    query = tasks[tasks["role"] == "query"]
    examples = load_examples(scored.queries, backbone=backbone, progress=progress)
    query_of = picker(examples, scored.queries["image_id"])
    predictions, boundary = [], []
    near: dict[str, np.ndarray] = {}
    count = query["task"].nunique()
    for task, rows in progress(query.groupby("task"), "evaluate", total=count, unit="task"):
        matrix = confusion(scored.confusion[scored.confusion["task"] == task])
        pairs, queries = boundary_pairs(matrix), query_of(rows["image_id"])
        for name, classifiers in scored.models.items():
            predicted, near[name] = predict_queries(classifiers[int(task)], queries, pairs)
            predictions.append(predicted.assign(task=task, model=name))
            share = None if np.isnan(near[name]).all() else round(mean_of_parts(near[name]), 6)
            boundary.append({"task": task, "model": name, "boundary": share})
    table = pd.concat(predictions, ignore_index=True)
    judged = verdicts(scored.members, scored.generated, oracle=oracle, progress=progress)
    scores = score_table(table, tasks=tasks, boundary=pd.DataFrame(boundary))
    summary = summarise(scores, tasks=tasks, members=scored.members, verdicts=judged)
    if summary["interval_over"] == QUERY_IMAGES:
        asked = scored.queries.set_index("image_id").loc[query["image_id"]].reset_index()
        summary |= over_queries(table, near, tasks=tasks, groups=near_duplicate_groups(asked))
    return Evaluation(table, judged, scores, summary)


def write_evaluation(evaluation: Evaluation, root: Path) -> None:
    """Write the tables and the summary to metrics/, plots/ and data/ in a project folder."""
    write_table(evaluation.verdicts, root / "data/evaluation/verdicts.csv", VERDICTS)
    write_table(evaluation.scores, root / "metrics/tasks.csv", SCORES)
    table = evaluation.predictions
    write_table(class_table(table), root / "metrics/classes.csv", CLASS_SCORES)
    for name, file in (("baseline", "confusion_baseline.csv"), ("augmented", "confusion.csv")):
        write_table(table[table["model"] == name], root / "plots" / file, PREDICTED)
    text = json.dumps(evaluation.summary, indent=1, ensure_ascii=False, default=asdict)
    (root / "metrics/evaluate.json").write_text(text + "\n", encoding="utf-8")


def predict_queries(
    classifier: Classifier, queries: Examples, pairs: Sequence[tuple[str, str]]
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a task's query predictions (label, predicted) and `boundary_right`.

    `pairs` lists the most confused pairs of classes (`classify.confusion.boundary_pairs`).
    """
    shares = predict_proba(classifier, queries)
    predicted = np.array(classifier.classes)[shares.argmax(1)]
    near = boundary_right(shares, queries.labels, classes=classifier.classes, pairs=pairs)
    return pd.DataFrame({"label": queries.labels, "predicted": predicted}), near


def score_table(
    predictions: pd.DataFrame, *, tasks: pd.DataFrame, boundary: pd.DataFrame
) -> pd.DataFrame:
    """Compute the accuracy in [0, 1] per task and model, overall and per group of classes.

    `predictions` has the columns task, model, label and predicted. `tasks` is the tasks table.
    `boundary` has the columns task, model and boundary (the accuracy within the most confused pairs
    of classes). The groups many, medium and few depend on a class's number of training images.
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
    members: pd.DataFrame,
    images: Sequence[Image.Image],
    *,
    oracle: ImageModel,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Return the oracle's class of each distinct generated image, and whether it is the label.

    `images` are in the order of the sorted distinct file names. If the oracle lacks a class of the
    set, its verdicts are meaningless: the table is empty, and a warning names the class.
    """
    table = members.drop_duplicates("file_name").sort_values("file_name")
    if table.empty:
        return empty(VERDICTS)
    names = class_names(oracle)
    unknown = sorted(set(table["label"]) - set(names))
    if unknown:
        log.warning(
            "`oracle` does not know the class %r, so label consistency is not measured; "
            "give a classifier with these classes to measure it",
            unknown[0],
        )
        return empty(VERDICTS)
    probabilities = classify(images, model=oracle, progress=progress, label="judge images")
    verdict = np.array(names)[probabilities.argmax(1)]
    return table[["key", "label"]].assign(
        verdict=verdict,
        probability=probabilities.max(1).round(4),
        consistent=verdict == table["label"].to_numpy(),
    )


def interval_over(tasks: pd.DataFrame) -> str:
    """Return what differs between tasks, for the description of intervals.

    The result is "query images" for one task, "support sets" for tasks with the same query images,
    "splits" if an image is a query image in one task and a support image in another, and otherwise
    "tasks".
    """
    if tasks["task"].nunique() == 1:
        return QUERY_IMAGES
    ids = {role: rows.groupby("task")["image_id"].agg(frozenset) for role, rows in _by_role(tasks)}
    if frozenset.union(*ids["support"]) & frozenset.union(*ids["query"]):
        return SPLITS
    return SUPPORT_SETS if len(set(ids["query"])) == 1 else ONLY_TASKS


def near_duplicate_groups(images: pd.DataFrame) -> list[int]:
    """Return the number of each image's group of near-duplicates, in the order of `images`."""
    found = enumerate(clusters(images))
    group = {image_id: number for number, ids in found for image_id in ids}
    return [group[image_id] for image_id in images["image_id"]]


def over_queries(
    predictions: pd.DataFrame,
    near: Mapping[str, np.ndarray],
    *,
    tasks: pd.DataFrame,
    groups: Sequence[int],
) -> dict[str, Interval]:
    """Return the accuracies and gains of one task with bootstrap intervals over query images.

    `predictions` contains the predictions of both models, `near` maps models to the
    `boundary_right` from `predict_queries`, and `groups` gives the group of near-duplicates of each
    query image.
    """
    label = predictions.loc[predictions["model"] == "baseline", "label"].to_numpy()
    right = {
        name: (own["label"] == own["predicted"]).to_numpy(float)[:, None]
        for name, own in predictions.groupby("model")
    }
    gain = right["augmented"] - right["baseline"]
    found = {name: bootstrap(right[name], groups, bounds=SHARE) for name in right}
    found |= {"gain": bootstrap(gain, groups)}
    found |= {"gain_boundary": bootstrap(near["augmented"] - near["baseline"], groups)}
    support = tasks.loc[tasks["role"] == "support", "label"]
    group_of = shot_groups(support.value_counts())
    for group in sorted(set(group_of), key=GROUPS.index):
        classes = group_of.index[group_of == group]
        parts = [np.where(label == name, gain[:, 0], np.nan) for name in classes]
        found[f"gain_{group}"] = bootstrap(np.stack(parts, axis=1), groups)
    return found


def _by_role(tasks: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(role, tasks[tasks["role"] == role]) for role in ("support", "query")]


def summarise(
    scores: pd.DataFrame, *, tasks: pd.DataFrame, members: pd.DataFrame, verdicts: pd.DataFrame
) -> dict[str, Any]:
    """Return the summary for metrics/evaluate.json.

    Accuracies are in [0, 1]. Accuracies and gains are means with 95% t-intervals over tasks. If
    there is only one task, the bounds are None (see `over_queries`). For splits of the same images,
    the intervals are those of Nadeau and Bengio. Gains are paired by task. `gain_many`,
    `gain_medium` and `gain_few` are present only if some task has such classes. `mean_r` is None
    without images, and `label_consistency` is None without verdicts. `predict_accuracy` is the
    accuracy of the first task's classifier, which `genie predict` applies. `queries` counts all
    distinct query images, and `queries_per_class` counts those in the class with the fewest.
    """
    over, per_class = interval_over(tasks), queries_per_class(tasks)
    roles = tasks["role"].value_counts()
    share = float(roles["query"] / len(tasks))
    mean_of = partial(_over_splits, shared=share) if over == SPLITS else interval
    wide = scores.pivot(index="task", columns="model", values="accuracy")
    near = scores.pivot(index="task", columns="model", values="boundary").astype(float)
    summary: dict[str, Any] = {
        "baseline": mean_of(wide["baseline"], bounds=SHARE),
        "augmented": mean_of(wide["augmented"], bounds=SHARE),
        "gain": mean_of(wide["augmented"] - wide["baseline"]),
        "gain_boundary": mean_of((near["augmented"] - near["baseline"]).dropna()),
        "images": int(members["file_name"].nunique()),
        "mean_r": _rounded(members["r"].astype(float).mean()),
        "label_consistency": _rounded(verdicts["consistent"].astype(float).mean()),
    }
    for group in GROUPS:
        grouped = scores.pivot(index="task", columns="model", values=group).dropna()
        if len(grouped):
            summary[f"gain_{group}"] = mean_of(grouped["augmented"] - grouped["baseline"])
    return summary | {
        "interval_over": over,
        "predict_accuracy": float(wide["augmented"].iloc[0]),
        "queries": int(tasks.loc[tasks["role"] == "query", "image_id"].nunique()),
        "queries_per_class": int(per_class.min()),
    }


def _over_splits(
    values: Sequence[float], *, bounds: tuple[float, float] = DIFFERENCE, shared: float
) -> Interval:
    """Return `interval`, but without bounds if all splits give equal results.

    Equal results do not mean that the mean is certain.
    """
    found = interval(values, bounds=bounds, shared=shared)
    return replace(found, low=None, high=None) if found.low == found.high else found


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
