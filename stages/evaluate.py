"""Measure both classifiers on the query images, and the generated images by the oracle.

In: models/baseline/, models/augmented/, data/prepared/, data/sources/confusion.csv,
data/augmented/, backbone and oracle.
Out: metrics/evaluate.json, metrics/tasks.csv, metrics/classes.csv, plots/confusion.csv,
data/evaluation/verdicts.csv.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from genie.augmentation import read_set
from genie.backbones import load_backbone, load_oracle
from genie.classifiers import load, predict_proba
from genie.confusion import boundary_pairs, confusion
from genie.evaluation import (
    CLASS_COLUMNS,
    SCORE_COLUMNS,
    class_table,
    score_table,
    summarise,
    verdicts,
)
from genie.metrics import boundary_accuracy
from genie.records import (
    CONFUSION_COLUMNS,
    MEMBER_COLUMNS,
    TASK_COLUMNS,
    VERDICT_COLUMNS,
    read_images,
    read_table,
    write_table,
)
from genie.training import load_examples, picker
from stages.common import bar, features_file, stage
from stages.params import Params
from stages.settings import training_settings


@stage
def main(params: Params, root: Path) -> str:
    """Measure both classifiers on the query images."""
    images = read_images(root / "data/prepared/query")
    tasks = read_table(root / "data/prepared/tasks.csv", columns=TASK_COLUMNS)
    query = tasks[tasks["role"] == "query"]
    members = read_table(root / "data/augmented/members.csv", columns=MEMBER_COLUMNS)
    models = {name: load(root / "models" / name) for name in ("baseline", "augmented")}
    backbone = load_backbone(Path(params.classifier.backbone), cache=features_file(root))
    query_of = picker(load_examples(images, backbone=backbone), images["image_id"])
    confusions = read_table(root / "data/sources/confusion.csv", columns=CONFUSION_COLUMNS)
    predictions, at_boundary = [], []
    for task, rows in bar(query.groupby("task"), total=query["task"].nunique(), label="evaluate"):
        examples = query_of(rows["image_id"])
        pairs = boundary_pairs(confusion(confusions[confusions["task"] == task]))
        for name, classifiers in models.items():
            model = classifiers[int(task)]
            shares = predict_proba(model, examples, settings=training_settings(params))
            named = {"task": task, "model": name}
            called = np.array(model.classes)[shares.argmax(1)]
            predictions.append(
                pd.DataFrame({**named, "label": examples.labels, "predicted": called})
            )
            score = boundary_accuracy(shares, examples.labels, classes=model.classes, pairs=pairs)
            at_boundary.append({**named, "boundary": score})
    table = pd.concat(predictions, ignore_index=True)
    judged = pd.DataFrame(columns=list(VERDICT_COLUMNS))
    if len(members):
        _, generated = read_set(root / "data/augmented", members)
        judged = verdicts(
            members,
            generated,
            oracle=load_oracle(Path(params.oracle.model), cache=features_file(root)),
        )
    support = tasks[tasks["role"] == "support"]
    scores = score_table(table, support=support, boundary=pd.DataFrame(at_boundary))
    summary = summarise(scores, members=members, verdicts=judged)

    write_table(judged, root / "data/evaluation/verdicts.csv", columns=VERDICT_COLUMNS)
    write_table(scores, root / "metrics/tasks.csv", columns=SCORE_COLUMNS)
    write_table(class_table(table), root / "metrics/classes.csv", columns=CLASS_COLUMNS)
    augmented = table[table["model"] == "augmented"]
    write_table(augmented, root / "plots/confusion.csv", columns=("label", "predicted"))
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    (root / "metrics/evaluate.json").write_text(text + "\n", encoding="utf-8")
    gain = summary["gain"]["mean"]
    return (
        f"evaluate: gain {gain:+.4f} over {scores['task'].nunique()} tasks in metrics/evaluate.json"
    )


if __name__ == "__main__":
    main()
