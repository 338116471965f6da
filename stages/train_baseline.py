"""Train a classifier per task on support images and weak copies, and predict out of fold.

Inputs: data/prepared/support/, data/prepared/tasks.csv, the backbone.
Outputs: models/baseline/, data/baseline/predictions.csv (out-of-fold predictions of the support).
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from genie.classify.backbone import load_backbone
from genie.classify.classifier import fit, out_of_fold
from genie.classify.examples import join, load_examples, picker
from genie.classify.files import save_classifiers
from genie.classify.training import copies
from genie.classify.transforms import weak_copies
from genie.keyed import support_identity, task_seed
from genie.tables import PREDICTIONS, TASKS, read_images, read_table, write_table

from .shared.command import stage
from .shared.params import Params
from .shared.places import features_file
from .shared.progress import bar, is_first_process
from .shared.settings import images_per_class, training_settings
from .shared.tracking import Curves


@partial(stage, trains=True)
def main(params: Params, root: Path) -> str:
    """Train a classifier per task on the support images alone, with weak augmentation."""
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", TASKS)
    support = tasks[tasks["role"] == "support"]
    backbone = load_backbone(params.classifier.backbone, cache=features_file(root))
    support_of = picker(load_examples(images, backbone=backbone), images["image_id"])
    settings, head = training_settings(params), params.classifier.head
    curves = Curves(root, "train_baseline")
    models, predictions = {}, []
    for task, rows in bar(support.groupby("task"), total=support["task"].nunique(), label="train"):
        examples = support_of(rows["image_id"])
        extra = images_per_class(params, examples.labels)
        identity = support_identity(rows["label"], rows["image_id"])
        seed = partial(task_seed, params.seed, identity)
        weak = copies(examples, extra, weak_copies, backbone=backbone, seed=seed("copies"))
        drawn = replace(
            settings,
            seed=seed("training"),
            on_step=partial(curves.record, f"loss/task_{task}"),
        )
        models[int(task)] = fit(head, join(examples, weak), settings=drawn)
        held_out = out_of_fold(head, examples, settings=drawn)
        table = pd.DataFrame(held_out, columns=sorted(set(examples.labels)))
        known = {"task": task, "image_id": list(rows["image_id"]), "label": examples.labels}
        predictions.append(
            table.assign(**known).melt(list(known), var_name="predicted", value_name="probability")
        )
    curves.end()
    if is_first_process():
        write_table(pd.concat(predictions), root / "data/baseline/predictions.csv", PREDICTIONS)
        save_classifiers(models, root / "models/baseline")
    return f"train_baseline: {len(models)} classifiers in models/baseline"


if __name__ == "__main__":
    main()
