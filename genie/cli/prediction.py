"""Classification of image files with the classifiers that `retrain` trained."""

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
from genie.cli.revisions import trained_size
from genie.core.errors import InvalidValueError, MissingFileError
from genie.core.progress import Progress, silent
from genie.data.readers import ENDINGS, image_files, open_square

CHUNK = 512
"""Number of images that are classified at once."""


@dataclass(frozen=True)
class Predictor:
    """The classifier of one task, and its number.

    `size` is `data.size`: pixels per side of the images that they were trained on.
    """

    classifier: Classifier
    task: int
    backbone: ImageModel
    size: int | None

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the probabilities."""
        return self.classifier.classes


@dataclass(frozen=True)
class Part:
    """Predictions for some of the files, and the files that cannot be read, with the reason.

    The table has the columns file, predicted, probability in [0, 1], and `P(class)` for each class.
    """

    table: pd.DataFrame
    broken: Mapping[Path, str]


def load_predictor(root: Path, task: int | None = None) -> Predictor:
    """Load a classifier in models/augmented of a project: that of a task, or of the first one.

    `metrics/evaluate.json` has the accuracy of the first one; that of a mean over tasks is not
    known, because a query image of one task may be a support image of another. Raise
    MissingFileError if there are no classifiers, and InvalidValueError if there is no such task, or
    if the tasks have different classes and none is chosen.
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
    return Predictor(own, number, load_backbone(own.backbone), trained_size(root))


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Return the paths of image files: given files, and the images in given folders, sorted."""
    found: list[Path] = []
    for path in paths:
        inside = image_files(path) if path.is_dir() else [path]
        if not path.exists():
            raise MissingFileError(
                "must exist",
                argument="IMAGES",
                value=str(path),
                remedy="give image files or folders with images",
            )
        if not inside:
            raise InvalidValueError(
                f"must contain images (files ending in {', '.join(ENDINGS)})",
                argument="IMAGES",
                value=str(path),
            )
        found += inside
    return list(dict.fromkeys(found))


def predict_files(
    predictor: Predictor, files: Sequence[Path], *, progress: Progress = silent
) -> Iterator[Part]:
    """Classify image files, CHUNK at a time."""
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for chunk in progress(chunks, "predict", total=len(files), unit="image", weight=len):
            found = list(zip(chunk, threads.map(partial(_read, predictor), chunk), strict=True))
            images = {f: image for f, image in found if isinstance(image, Image.Image)}
            broken = {f: str(error) for f, error in found if isinstance(error, InvalidValueError)}
            yield Part(_table(predictor, images), broken)


def _read(predictor: Predictor, file: Path) -> Image.Image | InvalidValueError:
    """Return an image at the backbone's input size, or the error of a file that cannot be read."""
    try:
        return resized(open_square(file, size=predictor.size), model=predictor.backbone)
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
