"""Train a classifier per task on support images and weak copies; predict the support out of fold.

In: data/prepared/support/, data/prepared/tasks.csv, the backbone.
Out: models/baseline/, data/baseline/predictions.csv.
"""

from functools import partial
from pathlib import Path

import pandas as pd

from genie.backbones import load_backbone
from genie.classifiers import fit, join, out_of_fold, save
from genie.records import PREDICTION_COLUMNS, TASK_COLUMNS, read_images, read_table, write_table
from genie.training import copies, load_examples, picker
from genie.transforms import weak_copies
from stages.common import bar, features_file, is_first_process, stage
from stages.params import Params
from stages.settings import images_per_class, training_settings


@partial(stage, trains=True)
def main(params: Params, root: Path) -> str:
    """Train a classifier per task on the support images alone."""
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", columns=TASK_COLUMNS)
    support = tasks[tasks["role"] == "support"]
    backbone = load_backbone(Path(params.classifier.backbone), cache=features_file(root))
    pool = load_examples(images, backbone=backbone)
    support_of = picker(pool, images["image_id"])
    settings = training_settings(params)
    models, predictions = {}, []
    for task, rows in bar(support.groupby("task"), total=support["task"].nunique(), label="train"):
        examples = support_of(rows["image_id"])
        extra = images_per_class(params, examples.labels)
        weak = copies(examples, extra, weak_copies, backbone=backbone, seed=params.seed)
        head = params.classifier.head
        models[int(task)] = fit(head, join(examples, weak), settings=settings)
        held_out = out_of_fold(head, examples, settings=settings)
        table = pd.DataFrame(held_out, columns=sorted(set(examples.labels)))
        known = {"task": task, "image_id": list(rows["image_id"]), "label": examples.labels}
        predictions.append(
            table.assign(**known).melt(list(known), var_name="predicted", value_name="probability")
        )
    if is_first_process():
        path = root / "data/baseline/predictions.csv"
        write_table(pd.concat(predictions), path, columns=PREDICTION_COLUMNS)
        save(models, root / "models/baseline")
    return f"train_baseline: {len(models)} classifiers in models/baseline"


if __name__ == "__main__":
    main()
