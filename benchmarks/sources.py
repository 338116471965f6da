"""Source classes of the long tail, from predictions with and without balanced classes.

    python -m benchmarks.sources

Draws the tasks of `protocols/longtail` and predicts their support images out of fold, once by the
pipeline, which weights all classes equally, and once without weights. Without them, the largest
classes become sources of every target. `agreement` is the share of a target's sources that are
among those of equally large classes: all bundled support images, 500 per class.
Out: benchmarks/sources.csv, a row per class, largest first.
"""

import os
from pathlib import Path

import click
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from benchmarks.rules import run_trial
from genie.classify.backbone import load_backbone
from genie.classify.confusion import confusion, source_classes
from genie.classify.examples import Examples, load_examples
from genie.cli.places import features_file
from genie.core.tables import PREDICTIONS, Schema, read_images, read_table, write_table

SOURCES_TABLE: Schema = {
    "label": str,
    "images": float,
    "sources_before": str,
    "sources": str,
    "sources_of_equal_classes": str,
    "named_before": int,
    "named": int,
    "agreement_before": float,
    "agreement": float,
}
SETTINGS = {
    "data.regime": "longtail",
    "data.imbalance": 100,
    "augment.classes": "few",
    "method": "none",
}
FOLDS = 5


def unbalanced(examples: Examples) -> pd.DataFrame:
    """Return the mean probabilities (true, predicted) of scikit-learn's own cross-validation."""
    labels = np.array(examples.labels)
    model = LogisticRegression(C=1.0, max_iter=1000)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    shares = cross_val_predict(model, examples.embeddings, labels, cv=folds, method="predict_proba")
    return pd.DataFrame(shares, columns=np.unique(labels)).groupby(labels).mean()


def sources_of(matrix: pd.DataFrame, top_k: int) -> dict[str, list[str]]:
    """Return the most confused classes of each target, first choice first."""
    table = source_classes(matrix, strategy="confusion", top_k=top_k, seed=0)
    return {str(t): list(rows.sort_values("rank")["source"]) for t, rows in table.groupby("target")}


def by_class(
    before: list[dict[str, list[str]]],
    after: list[dict[str, list[str]]],
    equal: dict[str, list[str]],
    sizes: pd.Series,
) -> pd.DataFrame:
    """Return a row per class; lists of sources are those of the first task.

    `named` counts the targets of all tasks that have the class among their sources.
    """

    def named(found: list[dict[str, list[str]]], label: str) -> int:
        return sum(label in sources for task in found for sources in task.values())

    def agreement(found: list[dict[str, list[str]]], label: str) -> float:
        shared = [len(set(task[label]) & set(equal[label])) for task in found]
        return round(float(np.mean(shared)) / len(equal[label]), 4)

    return pd.DataFrame(
        [
            {
                "label": label,
                "images": round(float(size), 2),
                "sources_before": ", ".join(before[0][label]),
                "sources": ", ".join(after[0][label]),
                "sources_of_equal_classes": ", ".join(equal[label]),
                "named_before": named(before, label),
                "named": named(after, label),
                "agreement_before": agreement(before, label),
                "agreement": agreement(after, label),
            }
            for label, size in sizes.sort_values(ascending=False).items()
        ]
    )


@click.command(help=__doc__)
@click.option("--top-k", type=int, default=4, show_default=True)
@click.option("--tasks", type=int, default=20, show_default=True)
@click.option("--params", "params_file", type=Path, default="params.yaml", show_default=True)
@click.option("--place", type=Path, default=".genie/sources", show_default=True)
@click.option("--out", type=Path, default="benchmarks/sources.csv", show_default=True)
def main(top_k: int, tasks: int, params_file: Path, place: Path, out: Path) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    trial = run_trial({**SETTINGS, "data.tasks": tasks}, place, params_file)
    backbone = load_backbone(Path("zoo/backbone"), cache=features_file(place))
    pool = load_examples(read_images(Path("data/bundled/train")), backbone=backbone)
    predictions = read_table(place / "data/baseline/predictions.csv", PREDICTIONS)
    support = trial.tasks[trial.tasks["role"] == "support"]
    table = by_class(
        [
            sources_of(unbalanced(trial.support(rows["image_id"])), top_k)
            for _, rows in support.groupby("task")
        ],
        [sources_of(confusion(rows), top_k) for _, rows in predictions.groupby("task")],
        sources_of(unbalanced(pool), top_k),
        support.groupby("label").size() / support["task"].nunique(),
    )
    write_table(table, out, SOURCES_TABLE)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
