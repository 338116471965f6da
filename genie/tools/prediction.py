"""Classification of image files with the classifiers that `retrain` trained."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from genie.classify.backbone import ImageModel, embed, load_backbone, resized
from genie.classify.classifier import Classifier, predict_proba
from genie.classify.examples import Examples
from genie.classify.files import load_classifiers
from genie.data.readers import ENDINGS, image_files, open_square
from genie.errors import GenieError
from genie.tools.revisions import read_parameters

CHUNK = 512
"""Images that are classified at once."""

Watch = Callable[[Sequence[Path]], Iterable[Path]]
"""Wraps the files to read, for example in a progress bar."""


@dataclass(frozen=True)
class Predictor:
    """Classifiers by task, all of the same classes, whose probabilities are averaged.

    `size` is that of `data.size`: pixels per side of the images that they were trained on.
    """

    classifiers: dict[int, Classifier]
    backbone: ImageModel
    size: int | None

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the probabilities."""
        return next(iter(self.classifiers.values())).classes


def load_predictor(root: Path, task: int | None = None) -> Predictor:
    """Load the classifiers in models/augmented of a project: of one task, or of all.

    Raises GenieError if there are none, if there is no such task, or if the tasks have different
    classes and none is chosen.
    """
    found = load_classifiers(root / "models/augmented")
    if task is not None and task not in found:
        tasks = ", ".join(map(str, found))
        raise GenieError(f"--task must be one of the tasks {tasks} of models/augmented, got {task}")
    chosen = found if task is None else {task: found[task]}
    if len({classifier.classes for classifier in chosen.values()}) > 1:
        raise GenieError(
            "the tasks of models/augmented have different classes, so their probabilities have no "
            f"mean; choose one with --task, from 0 to {max(found)}"
        )
    own = {number: replace(c, backbone=root / c.backbone) for number, c in chosen.items()}
    backbone = load_backbone(next(iter(own.values())).backbone)
    return Predictor(own, backbone, read_parameters(root).get("data.size"))


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Return image files: paths of files as they are, of folders the images in them, sorted."""
    found: list[Path] = []
    for path in paths:
        inside = image_files(path) if path.is_dir() else [path]
        if not path.exists():
            raise GenieError(f"{path} does not exist; give image files or folders with images")
        if not inside:
            raise GenieError(f"{path} holds no images (files ending in {', '.join(ENDINGS)})")
        found += inside
    return list(dict.fromkeys(found))


def predict_files(
    predictor: Predictor, files: Sequence[Path], *, broken: dict[Path, str], watch: Watch = iter
) -> Iterator[pd.DataFrame]:
    """Classify image files, some at a time.

    The tables have the columns file, predicted, probability in [0, 1], and `P(class)` for each
    class. `broken` receives the files that cannot be read, with the reason.
    """

    def read(file: Path) -> Image.Image | str:
        image = open_square(file, size=predictor.size)
        return image if isinstance(image, str) else resized(image, model=predictor.backbone)

    watched = iter(watch(files))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(files), CHUNK):
            part = files[start : start + CHUNK]
            results = dict(zip(part, threads.map(read, part), strict=True))
            broken |= {file: why for file, why in results.items() if isinstance(why, str)}
            images = {file: image for file, image in results.items() if not isinstance(image, str)}
            if images:
                yield _table(predictor, images)
            for _ in part:  # the bar moves when a part is done
                next(watched)


def _table(predictor: Predictor, images: dict[Path, Image.Image]) -> pd.DataFrame:
    pictures = list(images.values())
    examples = Examples(pictures, embed(pictures, model=predictor.backbone), labels=[])
    each = [predict_proba(classifier, examples) for classifier in predictor.classifiers.values()]
    shares = np.mean(each, axis=0)
    table = pd.DataFrame(
        {
            "file": [file.as_posix() for file in images],
            "predicted": np.array(predictor.classes)[shares.argmax(1)],
            "probability": shares.max(1),
        }
    )
    columns = {f"P({label})": shares[:, i] for i, label in enumerate(predictor.classes)}
    return table.assign(**columns).round(6)
