"""Classification of image files with the classifiers that `retrain` trained."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from genie.classify.backbone import ImageModel, embed, load_backbone, resized
from genie.classify.classifier import Classifier, predict_proba
from genie.classify.examples import Examples
from genie.classify.files import load_classifiers
from genie.cli.revisions import trained_with
from genie.core.errors import InvalidValueError, MissingFileError
from genie.core.progress import Progress, silent
from genie.data.depth import common_depth, read_depth
from genie.data.folders import USUAL, data_files, is_image_file, others_by_ending
from genie.data.images import Crop
from genie.data.readers import open_square

log = logging.getLogger(__name__)

CHUNK = 512
"""Number of images that are classified at once."""


@dataclass(frozen=True)
class Predictor:
    """The classifier of a task, with the task's number.

    `size` and `crop` are the values of `data.size` and `data.crop` for the training images. `depth`
    is the number of bits per sample in training images with more than 8 bits, or None.
    """

    classifier: Classifier
    task: int
    backbone: ImageModel
    size: int | None
    crop: Crop
    depth: int | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the probabilities."""
        return self.classifier.classes


@dataclass(frozen=True)
class Part:
    """Predictions for some of the files, and the reasons why other files cannot be read.

    The table has the columns file, predicted, probability in [0, 1], and `P(class)` for each class.
    """

    table: pd.DataFrame
    broken: Mapping[Path, str]


def load_predictor(root: Path, task: int | None = None) -> Predictor:
    """Load the classifier of a task, by default the first, from a project's models/augmented.

    `metrics/evaluate.json` gives the accuracy of the first classifier. Predictions are not averaged
    over tasks, because a query image of one task may be a support image of another, so the accuracy
    of the average would be unknown. Raise MissingFileError if there are no classifiers, and
    InvalidValueError if the task does not exist, or if the tasks have different classes and no task
    is chosen.
    """
    found = load_classifiers(root / "models/augmented")
    if task is not None and task not in found:
        tasks = ", ".join(map(str, found))
        raise InvalidValueError(
            f"must be one of the tasks {tasks} of models/augmented", argument="--task", value=task
        )
    if task is None and len({classifier.classes for classifier in found.values()}) > 1:
        raise InvalidValueError(
            "the tasks of models/augmented have different classes",
            remedy=f"choose one with --task, from 0 to {max(found)}",
        )
    number = min(found) if task is None else task
    own = replace(found[number], backbone=root / found[number].backbone)
    crop: Crop = trained_with(root, "data.crop") or "centre"
    return Predictor(
        own,
        number,
        load_backbone(own.backbone),
        trained_with(root, "data.size"),
        crop,
        read_depth(root / "data/prepared/support"),
    )


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Return the paths of the given image files, and of all images in the given folders.

    Log a warning with the number of other files in the folders.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise MissingFileError(
                "must exist",
                argument="IMAGES",
                value=str(path),
                remedy="give image files or folders with images",
            )
        found += _images_in(path) if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def _images_in(folder: Path) -> list[Path]:
    try:
        files = data_files(folder)
    except InvalidValueError as error:
        error.argument = "IMAGES"
        raise
    others = others_by_ending(files)
    images = [file for file in files if is_image_file(file)]
    if not images:
        raise InvalidValueError(
            f"must contain images (files ending in {USUAL}), but has {others or 'none'}",
            argument="IMAGES",
            value=str(folder),
        )
    if others:
        log.warning("%s: left out files that do not end as images do: %s", folder, others)
    return images


def predict_files(
    predictor: Predictor, files: Sequence[Path], *, progress: Progress = silent
) -> Iterator[Part]:
    """Classify image files, CHUNK at a time."""
    if predictor.depth is None:
        predictor = replace(predictor, depth=common_depth(files, "predict"))
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for chunk in progress(chunks, "predict", total=len(files), unit="image", weight=len):
            found = list(zip(chunk, threads.map(partial(_read, predictor), chunk), strict=True))
            images = {f: image for f, image in found if isinstance(image, Image.Image)}
            broken = {f: str(error) for f, error in found if isinstance(error, InvalidValueError)}
            yield Part(_table(predictor, images), broken)


def _read(predictor: Predictor, file: Path) -> Image.Image | InvalidValueError:
    """Return an image at the backbone's input size, or the error if the file cannot be read."""
    try:
        image = open_square(file, size=predictor.size, crop=predictor.crop, depth=predictor.depth)
        return resized(image, model=predictor.backbone)
    except InvalidValueError as error:
        return error


def _table(predictor: Predictor, images: Mapping[Path, Image.Image]) -> pd.DataFrame:
    pictures = list(images.values())
    shares = np.zeros((0, len(predictor.classes)))
    if pictures:
        examples = Examples(pictures, embed(pictures, model=predictor.backbone), labels=[])
        shares = predict_proba(predictor.classifier, examples)
    table = pd.DataFrame(
        {
            "file": [file.as_posix() for file in images],
            "predicted": np.array(predictor.classes)[shares.argmax(1)],
            "probability": shares.max(1),
        }
    )
    columns = {f"P({label})": shares[:, i] for i, label in enumerate(predictor.classes)}
    return table.assign(**columns).round(6)
