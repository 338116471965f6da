"""The outputs of a small run, from the stages before `evaluate`, on bundled pictures of clothes.

Its "generated" images are real ones of any class, so the oracle confirms only some labels.
"""

from functools import partial
from pathlib import Path

import pandas as pd

from genie.classify.backbone import ImageModel, embed
from genie.classify.confusion import rank_sources
from genie.classify.files import save_classifiers
from genie.classify.settings import TrainingSettings
from genie.classify.tasks import Recipe, retrain, train_baselines
from genie.core.progress import Monitor
from genie.core.tables import CONFUSION, TASKS, read_images, read_support, write_images, write_table
from genie.data.augmented_set import Provenance, set_of
from genie.data.images import decode_image
from genie.data.tasks import Draws, generated_per_class, make_tasks
from genie.data.thumbnails import write_thumbnails

CLASSES = ("bag", "coat", "shirt")
RATIOS = (0.5, 0.7, 0.9)
PROVENANCE = Provenance("genie", 3.0, "PNDMScheduler", "sd15", "f" * 64)


def write_small_run(root: Path, backbone: ImageModel) -> None:
    """Write prepared images, two tasks, a set of six images, and both classifiers of each task."""
    support, query = (_some(part, count) for part, count in (("train", 4), ("test", 3)))
    write_images(support, root / "data/prepared/support")
    write_images(query, root / "data/prepared/query")
    tasks = make_tasks(support, query, Draws("shots", seed=0, shots=2, tasks=2))
    write_table(tasks, root / "data/prepared/tasks.csv", TASKS)
    rows = read_support(root / "data/prepared/tasks.csv")
    per_class = partial(generated_per_class, per_class=1, classes="all", every_source=False)
    recipe = Recipe(TrainingSettings(head="prototype"), per_class)
    models, predictions = train_baselines(support, rows, recipe, backbone, monitor=Monitor())
    save_classifiers(models, root / "models/baseline")
    _write_confusion(predictions, root / "data/sources/confusion.csv")
    levels = _levels(support, rows, backbone)
    png = dict(zip(support["image_id"], support["png"], strict=True))
    set_of(levels, PROVENANCE, png_of=png.__getitem__, classes=CLASSES).save(
        root / "data/augmented"
    )
    write_thumbnails(
        levels["key"],
        root / "data/thumbnails.parquet",
        picture_of=lambda key: decode_image(png[key]),
    )
    models, _ = retrain(support, rows, root / "data/augmented", recipe, backbone, monitor=Monitor())
    save_classifiers(models, root / "models/augmented")


def _some(part: str, count: int) -> pd.DataFrame:
    images = read_images(Path("data/bundled") / part)
    return images[images["label"].isin(CLASSES)].groupby("label").head(count)


def _write_confusion(predictions: pd.DataFrame, path: Path) -> None:
    matrices = []
    for task, rows in predictions.groupby("task"):
        matrix, _ = rank_sources(rows, strategy="confusion", top_k=2, seed=0)
        matrices.append(matrix.stack().rename("probability").reset_index().assign(task=task))
    write_table(pd.concat(matrices), path, CONFUSION)


def _levels(images: pd.DataFrame, support: pd.DataFrame, backbone: ImageModel) -> pd.DataFrame:
    """Return a trajectory per task and target; the images of its levels are any of all classes."""
    keys = list(images["image_id"])
    pictures = [decode_image(png) for png in images["png"]]
    vectors = dict(zip(keys, embed(pictures, model=backbone), strict=True))
    rows = []
    for task, own in support.groupby("task"):
        for number, target in enumerate(CLASSES):
            source = CLASSES[(number + 1) % len(CLASSES)]
            for level, r in enumerate(RATIOS):
                key = keys[(len(RATIOS) * number + level + task) % len(keys)]
                rows.append(
                    {
                        "task": task,
                        "target_label": target,
                        "source_label": source,
                        "source_id": own.loc[own["label"] == source, "image_id"].iloc[0],
                        "replicate": 0,
                        "level": level,
                        "r": r,
                        "key": key,
                        "steps": 15,
                        "position": level / 2,
                        "shift_ratio": 1.5,
                        "chosen": level == 1,
                        "predicted_target": level > 0,
                        "embedding": vectors[key],
                        "prompt": f"a photo of a {target}",
                        "negative_prompt": "",
                        "seed": 0,
                        "support_id": "",
                        "target_weight": 1.0,
                    }
                )
    return pd.DataFrame(rows)
