"""Evaluate both classifiers on the query images, and the generated images with the oracle.

Inputs: models/baseline/, models/augmented/, data/prepared/, data/sources/confusion.csv,
data/augmented/, the backbone and the oracle.
Outputs: metrics/evaluate.json, metrics/tasks.csv, metrics/classes.csv,
data/evaluation/verdicts.csv, plots/confusion_baseline.csv, plots/confusion.csv.
"""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from genie.classify.backbone import load_backbone, load_oracle
from genie.classify.confusion import boundary_pairs, confusion
from genie.classify.examples import load_examples, picker
from genie.classify.files import load_classifiers
from genie.data.augmented_set import read_set
from genie.measure.evaluation import class_table, predict_queries, score_table, summarise, verdicts
from genie.tables import (
    CALLED,
    CLASS_SCORES,
    CONFUSION,
    MEMBERS,
    SCORES,
    TASKS,
    VERDICTS,
    read_images,
    read_table,
    write_table,
)

from .shared.command import stage
from .shared.params import Params
from .shared.places import features_file
from .shared.progress import bar


@stage
def main(params: Params, root: Path) -> str:
    """Evaluate both classifiers on the query images."""
    images = read_images(root / "data/prepared/query")
    tasks = read_table(root / "data/prepared/tasks.csv", TASKS)
    query = tasks[tasks["role"] == "query"]
    members = read_table(root / "data/augmented/members.csv", MEMBERS)
    models = {name: load_classifiers(root / "models" / name) for name in ("baseline", "augmented")}
    backbone = load_backbone(params.classifier.backbone, cache=features_file(root))
    query_of = picker(load_examples(images, backbone=backbone), images["image_id"])
    matrices = read_table(root / "data/sources/confusion.csv", CONFUSION)
    predictions, at_boundary = [], []
    for task, rows in bar(query.groupby("task"), total=query["task"].nunique(), label="evaluate"):
        pairs = boundary_pairs(confusion(matrices[matrices["task"] == task]))
        for name, classifiers in models.items():
            called, near = predict_queries(
                classifiers[int(task)], query_of(rows["image_id"]), pairs
            )
            predictions.append(called.assign(task=task, model=name))
            at_boundary.append({"task": task, "model": name, "boundary": near})
    table = pd.concat(predictions, ignore_index=True)
    _, generated = read_set(root / "data/augmented", members)
    oracle = load_oracle(params.oracle.model, cache=features_file(root))
    judged = verdicts(members, generated, oracle=oracle)
    scores = score_table(table, tasks=tasks, boundary=pd.DataFrame(at_boundary))
    summary = summarise(scores, members=members, verdicts=judged)
    write_table(judged, root / "data/evaluation/verdicts.csv", VERDICTS)
    write_table(scores, root / "metrics/tasks.csv", SCORES)
    write_table(class_table(table), root / "metrics/classes.csv", CLASS_SCORES)
    for name, file in (("baseline", "confusion_baseline.csv"), ("augmented", "confusion.csv")):
        write_table(table[table["model"] == name], root / "plots" / file, CALLED)
    text = json.dumps(summary, indent=1, ensure_ascii=False, default=asdict)
    (root / "metrics/evaluate.json").write_text(text + "\n", encoding="utf-8")
    gain = summary["gain"]
    return f"evaluate: gain {gain.mean:+.4f} over {gain.n} tasks in metrics/evaluate.json"


if __name__ == "__main__":
    main()
