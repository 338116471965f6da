"""Train a classifier per task on support and generated images.

In: data/prepared/support/, tasks.csv, data/augmented/, the backbone. Out: models/augmented/, with
mixtures.csv where the method mixes real and generated images.
"""

from functools import partial
from pathlib import Path

import pandas as pd

from genie.augmentation import read_set
from genie.backbones import embed, load_backbone
from genie.classifiers import Examples, fit, join, save
from genie.methods import METHODS
from genie.records import (
    MEMBER_COLUMNS,
    MIXTURE_COLUMNS,
    TASK_COLUMNS,
    read_images,
    read_table,
    write_table,
)
from genie.training import copies, load_examples, mixed, picker, shortfall
from stages.common import bar, features_file, is_first_process, stage
from stages.params import Params
from stages.settings import images_per_class, training_settings


@partial(stage, trains=True)
def main(params: Params, root: Path) -> str:
    """Train a classifier per task on support and generated images."""
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", columns=TASK_COLUMNS)
    support = tasks[tasks["role"] == "support"]
    members = read_table(root / "data/augmented/members.csv", columns=MEMBER_COLUMNS)
    backbone = load_backbone(Path(params.classifier.backbone), cache=features_file(root))
    pool = load_examples(images, backbone=backbone)
    files, pictures = read_set(root / "data/augmented", members)
    label_of = dict(zip(members["file_name"], members["label"], strict=True))
    labels = [label_of[name] for name in files]
    generated = Examples(pictures, embed(pictures, model=backbone), labels)
    support_of, generated_of = picker(pool, images["image_id"]), picker(generated, files)
    method = METHODS[params.method]
    models, mixtures = {}, []
    for task, rows in bar(support.groupby("task"), total=support["task"].nunique(), label="train"):
        examples = support_of(rows["image_id"])
        own = members.loc[members["task"] == task, "file_name"]
        augmented = generated_of(own)
        missing = shortfall(images_per_class(params, examples.labels), augmented.labels)
        filled = copies(examples, missing, method.fill, backbone=backbone, seed=params.seed)
        if method.mix is not None and augmented.labels:
            augmented, record = mixed(
                augmented, examples, method.mix, backbone=backbone, seed=params.seed
            )
            mixtures.append(record.assign(task=task, file_name=list(own)))
        everything = join(*[examples] * params.augment.real_passes, augmented, filled)
        models[int(task)] = fit(
            params.classifier.head, everything, settings=training_settings(params)
        )
    if is_first_process():
        save(models, root / "models/augmented")
        if mixtures:
            record = pd.concat(mixtures).round(6)
            write_table(record, root / "models/augmented/mixtures.csv", columns=MIXTURE_COLUMNS)
    return f"retrain: {len(models)} classifiers in models/augmented"


if __name__ == "__main__":
    main()
