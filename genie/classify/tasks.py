"""Training of one classifier per task, on support images alone or with generated images.

Random draws are keyed by a task's support set, not by its number, so equal tasks get the same
draws.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from genie.classify.backbone import ImageModel, embed
from genie.classify.classifier import Classifier, fit, out_of_fold
from genie.classify.examples import Examples, join, load_examples, picker
from genie.classify.settings import TrainingSettings
from genie.classify.training import copies, mixed, shortfall, softened
from genie.classify.transforms import COPIERS, MIXERS, weak_copies
from genie.core.progress import Monitor
from genie.core.seeding import identity_of, task_seed
from genie.core.tables import MEMBERS, MIXTURES, empty, read_table
from genie.data.augmented_set import read_set

PerClass = Callable[[Sequence[str]], Mapping[str, int]]
"""A function that maps the labels of a task's support images to numbers of images per class."""


def train_baseline(
    support: pd.DataFrame,
    examples: Examples,
    extra: Mapping[str, int],
    settings: TrainingSettings,
    backbone: ImageModel,
) -> tuple[Classifier, pd.DataFrame]:
    """Train a classifier on a task's support images and weak copies, and predict out of fold.

    `examples` contains the images of `support` (columns label, image_id) in the same order. `extra`
    maps classes to numbers of copies. The predictions have all columns of PREDICTIONS except the
    task.
    """
    seed = partial(task_seed, settings.seed, identity_of(support))
    weak = copies(examples, extra, weak_copies, backbone=backbone, seed=seed("copies"))
    settings = replace(settings, seed=seed("training"))
    held_out = out_of_fold(examples, settings)
    table = pd.DataFrame(held_out, columns=sorted(set(examples.labels)))
    known = {"image_id": list(support["image_id"]), "label": examples.labels}
    predictions = table.assign(**known).melt(
        list(known), var_name="predicted", value_name="probability"
    )
    return fit(join(examples, weak), settings), predictions


@dataclass(frozen=True)
class Recipe:
    """Settings for training classifiers with generated images.

    - `training`: the settings of each training
    - `per_class`: maps a task's labels to the number of images per class that every method adds;
      copies of real images make up for images that were not generated
    - `copier`: a key of COPIERS; `mixer`: a key of MIXERS, or None for no mixing
    - `mixes_with_sources`: whether an image is mixed with its source
    - `real_passes`: the number of copies of each real image
    """

    training: TrainingSettings
    per_class: PerClass
    copier: str = "weak"
    mixer: str | None = None
    mixes_with_sources: bool = False
    real_passes: int = 1


def train_baselines(
    images: pd.DataFrame,
    support: pd.DataFrame,
    recipe: Recipe,
    backbone: ImageModel,
    *,
    monitor: Monitor,
) -> tuple[dict[int, Classifier], pd.DataFrame]:
    """Train the baseline of each task; return baselines by task, and predictions (PREDICTIONS).

    `images` has the columns of IMAGES, and `support` the support rows of a tasks table.
    """
    example_of = picker(
        load_examples(images, backbone=backbone, progress=monitor.progress), images["image_id"]
    )
    models, predictions = {}, []
    for task, rows in _by_task(support, monitor):
        examples = example_of(rows["image_id"])
        extra = recipe.per_class(list(examples.labels))
        training = _watched(recipe.training, task, monitor)
        models[task], held_out = train_baseline(rows, examples, extra, training, backbone)
        predictions.append(held_out.assign(task=task))
    return models, pd.concat(predictions)


def retrain(
    images: pd.DataFrame,
    support: pd.DataFrame,
    folder: Path,
    recipe: Recipe,
    backbone: ImageModel,
    *,
    monitor: Monitor,
) -> tuple[dict[int, Classifier], pd.DataFrame]:
    """Train a classifier per task on support and generated images.

    `folder` contains the augmentation set. Return the classifiers by task, and a table with a row
    per mixture of a generated and a real image (MIXTURES), which is empty if nothing is mixed.
    """
    members = read_table(folder / "members.csv", MEMBERS)
    real_of = picker(
        load_examples(images, backbone=backbone, progress=monitor.progress), images["image_id"]
    )
    files, pictures = read_set(folder, members)
    label = dict(zip(members["file_name"], members["label"], strict=True))
    embeddings = embed(pictures, model=backbone, progress=monitor.progress)
    generated_of = picker(Examples(pictures, embeddings, [label[f] for f in files]), files)
    models, mixtures = {}, [empty(MIXTURES)]
    for task, rows in _by_task(support, monitor):
        own = members[members["task"] == task]
        real, generated = real_of(rows["image_id"]), generated_of(own["file_name"])
        draw = partial(task_seed, recipe.training.seed, identity_of(rows))
        missing = shortfall(recipe.per_class(list(real.labels)), generated.labels)
        copier = COPIERS[recipe.copier]
        filled = copies(real, missing, copier, backbone=backbone, seed=draw("copies"))
        weights = own["target_weight"].to_numpy()
        generated = softened(generated, list(own["source_label"]), weights)
        if recipe.mixer is not None and generated.labels:
            generated, record = mixed(
                generated,
                real,
                MIXERS[recipe.mixer],
                backbone=backbone,
                seed=draw("mixtures"),
                sources=real_of(own["source_id"]) if recipe.mixes_with_sources else None,
            )
            mixtures.append(record.assign(task=task, file_name=list(own["file_name"])))
        everything = join(*[real] * recipe.real_passes, generated, filled)
        training = replace(recipe.training, seed=draw("training"))
        models[task] = fit(everything, _watched(training, task, monitor))
    return models, pd.concat(mixtures).round(6)


def _by_task(support: pd.DataFrame, monitor: Monitor) -> Iterator[tuple[int, pd.DataFrame]]:
    count = support["task"].nunique()
    for task, rows in monitor.progress(support.groupby("task"), "train", total=count, unit="task"):
        yield int(task), rows


def _watched(settings: TrainingSettings, task: int, monitor: Monitor) -> TrainingSettings:
    """Return the settings with a callback that records a task's training loss."""
    return replace(settings, on_step=partial(monitor.record, f"loss/task_{task}"))
