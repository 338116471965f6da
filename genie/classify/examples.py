"""Images, embeddings and labels that classifiers train on or predict."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from genie.classify.backbone import ImageModel, embed
from genie.core.progress import Progress, silent
from genie.data.images import decode_image
from genie.data.pictures import Pictures, joined


@dataclass(frozen=True)
class Examples:
    """Images with their backbone embeddings (n, d) and, for training, their labels.

    Images in large sets are loaded lazily (`Pictures`). `weights` (n,) in [0, 1] are the weights of
    the labels; None means that all weights are 1. A mixture of two images becomes two examples with
    one label each.
    """

    images: Sequence[Image.Image]
    embeddings: np.ndarray
    labels: Sequence[str]
    weights: np.ndarray | None = None


def load_examples(
    images: pd.DataFrame, *, backbone: ImageModel, progress: Progress = silent
) -> Examples:
    """Return the examples of an images table, in the order of the table."""
    pictures = Pictures(decode_image, list(images["png"]))
    embeddings = embed(pictures, model=backbone, progress=progress)
    return Examples(pictures, embeddings, list(images["label"]))


def picker(examples: Examples, ids: Iterable[str]) -> Callable[[Iterable[str]], Examples]:
    """Return a function that selects examples by id, in the order of the given ids.

    `ids` contains the id of every example, in the order of `examples`.
    """
    position = {image_id: i for i, image_id in enumerate(ids)}
    return lambda chosen: take(examples, [position[image_id] for image_id in chosen])


def take(examples: Examples, rows: Sequence[int]) -> Examples:
    """Return the examples at the given rows, in that order."""
    chosen = list(rows)
    return Examples(
        Pictures(examples.images.__getitem__, chosen),
        examples.embeddings[chosen],
        [examples.labels[i] for i in chosen],
        None if examples.weights is None else examples.weights[chosen],
    )


def join(*parts: Examples) -> Examples:
    """Concatenate examples; parts may be empty."""
    full = [p for p in parts if len(p.labels)]
    return Examples(
        joined(p.images for p in full),
        np.concatenate([p.embeddings for p in full]),
        [label for p in full for label in p.labels],
        np.concatenate([weights_of(p) for p in full]),
    )


def weights_of(examples: Examples) -> np.ndarray:
    """Return the weights of the examples, (n,)."""
    return np.ones(len(examples.labels)) if examples.weights is None else examples.weights
