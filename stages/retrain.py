"""Train a classifier per task on support and generated images.

Inputs: data/prepared/support/, data/prepared/tasks.csv, data/augmented/, the backbone.
Outputs: models/augmented/, with mixtures.csv if the method mixes real and generated images.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from genie.classify.backbone import embed, load_backbone
from genie.classify.classifier import fit
from genie.classify.examples import Examples, join, load_examples, picker
from genie.classify.files import save_classifiers
from genie.classify.training import (
    COPIERS,
    MIX_WITH_SOURCES,
    MIXERS,
    copies,
    mixed,
    shortfall,
    softened,
)
from genie.data.augmented_set import read_set
from genie.keyed import support_identity, task_seed
from genie.tables import MEMBERS, MIXTURES, TASKS, read_images, read_table, write_table

from .shared.command import stage
from .shared.params import Params
from .shared.places import features_file
from .shared.progress import bar, is_first_process
from .shared.settings import images_per_class, training_settings
from .shared.tracking import Curves


@partial(stage, trains=True)
def main(params: Params, root: Path) -> str:
    """Train a classifier per task on support and generated images."""
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", TASKS)
    support = tasks[tasks["role"] == "support"]
    members = read_table(root / "data/augmented/members.csv", MEMBERS)
    backbone = load_backbone(params.classifier.backbone, cache=features_file(root))
    support_of = picker(load_examples(images, backbone=backbone), images["image_id"])
    files, pictures = read_set(root / "data/augmented", members)
    generated = Examples(pictures, embed(pictures, model=backbone), labels_of(files, members))
    generated_of = picker(generated, files)
    copier, mixer = COPIERS[params.method], MIXERS.get(params.method)
    settings, head = training_settings(params), params.classifier.head
    curves = Curves(root, "retrain")
    models, mixtures = {}, []
    for task, rows in bar(support.groupby("task"), total=support["task"].nunique(), label="train"):
        examples = support_of(rows["image_id"])
        own = members[members["task"] == task]
        names = own["file_name"]
        augmented = generated_of(names)
        missing = shortfall(images_per_class(params, examples.labels), augmented.labels)
        weights = own["target_weight"].to_numpy()
        augmented = softened(augmented, list(own["source_label"]), weights)
        identity = support_identity(rows["label"], rows["image_id"])
        seed = partial(task_seed, params.seed, identity)
        filled = copies(examples, missing, copier, backbone=backbone, seed=seed("copies"))
        if mixer is not None and augmented.labels:
            sources = support_of(own["source_id"]) if params.method in MIX_WITH_SOURCES else None
            augmented, record = mixed(
                augmented,
                examples,
                mixer,
                backbone=backbone,
                seed=seed("mixtures"),
                sources=sources,
            )
            mixtures.append(record.assign(task=task, file_name=list(names)))
        everything = join(*[examples] * params.augment.real_passes, augmented, filled)
        drawn = replace(
            settings,
            seed=seed("training"),
            on_step=partial(curves.record, f"loss/task_{task}"),
        )
        models[int(task)] = fit(head, everything, settings=drawn)
    curves.end()
    if is_first_process():
        save_classifiers(models, root / "models/augmented")
        if mixtures:
            record = pd.concat(mixtures).round(6)
            write_table(record, root / "models/augmented/mixtures.csv", MIXTURES)
    return f"retrain: {len(models)} classifiers in models/augmented"


def labels_of(files: list[str], members: pd.DataFrame) -> list[str]:
    """Return the label of each file."""
    label = dict(zip(members["file_name"], members["label"], strict=True))
    return [label[name] for name in files]


if __name__ == "__main__":
    main()
