"""Training samples of a classifier, the same number for every method.

A method that generates fewer images than others makes up the difference with copies of real images.
A method may also mix its generated images with real ones. COPIERS and MIXERS define how, by method
name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from PIL import Image

from genie.classify.backbone import ImageModel, embed, resized
from genie.classify.examples import Examples, join, take
from genie.classify.transforms import (
    Copier,
    Copies,
    Mixer,
    cutmix_copies,
    half_and_fractal_mix,
    mixup_copies,
    pixel_and_patch_mix,
    strong_copies,
    unchanged_copies,
    weak_copies,
)
from genie.data.pictures import Pictures, spooled
from genie.data.tasks import shot_groups

COPIERS: dict[str, Copier] = {
    "cap2aug": weak_copies,
    "cutmix": cutmix_copies,
    "da-fusion": weak_copies,
    "diff-mix": weak_copies,
    "diffcore-mix": weak_copies,
    "diffusemix": weak_copies,
    "genie": weak_copies,
    "img2img": weak_copies,
    "mixup": mixup_copies,
    "none": unchanged_copies,
    "real-guidance": weak_copies,
    "strong": strong_copies,
    "txt2img": weak_copies,
    "weak": weak_copies,
}
"""How each method copies real images."""

MIXERS: dict[str, Mixer] = {"diffcore-mix": pixel_and_patch_mix, "diffusemix": half_and_fractal_mix}
"""How each method that mixes its generated images with real ones does so."""

MIX_WITH_SOURCES = ("diffusemix",)
"""Methods that mix a generated image with its own source, not with any image of its class."""


AT_ONCE = 256
"""Images that are copied or mixed at a time. Mixtures of real images stay among these."""


def generated_per_class(
    labels: Sequence[str], *, per_class: int, classes: str, every_source: bool
) -> dict[str, int]:
    """Return how many images each class of a task gets in addition to its support images.

    `labels` has the label of every support image of the task. `classes` is "all", or "few" to leave
    out classes with 20 or more support images. With `every_source` (strategy
    "all"), a class gets one per support image of all other classes, and `per_class` is ignored.
    """
    counts = pd.Series(list(labels)).value_counts().sort_index()
    group = shot_groups(counts)
    kept = [str(c) for c in counts.index if classes == "all" or group[c] == "few"]
    return {c: int(counts.sum() - counts[c]) if every_source else per_class for c in kept}


def copies(
    examples: Examples,
    wanted: Mapping[str, int],
    copier: Copier,
    *,
    backbone: ImageModel,
    seed: int,
) -> Examples:
    """Make `wanted[label]` copies of each class with `copier`, taking its images in rotation."""
    labels = np.array(examples.labels)
    rows = [
        int(members[i % len(members)])
        for label, count in sorted(wanted.items())
        for members in [np.flatnonzero(labels == label)]
        for i in range(count)
    ]
    if not rows:
        return take(examples, [])
    made: list[Copies] = []

    def drawn() -> Iterator[Image.Image]:
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            originals = [resized(examples.images[i], model=backbone) for i in some]
            made.append(copier(originals, [examples.labels[i] for i in some], seed + start))
            yield from made[-1].images
            made[-1] = replace(made[-1], images=())

    images = spooled(drawn())
    places = [k * AT_ONCE + row for k, part in enumerate(made) for row in part.rows]
    return Examples(
        Pictures(images.__getitem__, places),
        embed(images, model=backbone)[places],
        [label for part in made for label in part.labels],
        np.array([weight for part in made for weight in part.weights]),
    )


def softened(generated: Examples, sources: Sequence[str], weights: np.ndarray) -> Examples:
    """Give the rest of each label's weight (n,) to the class of the image's source.

    Images whose label has the weight 1 stay as they are. Every other becomes two examples.
    """
    soft = np.flatnonzero(weights < 1)
    if not len(soft):
        return generated
    rest = replace(
        take(generated, list(soft)),
        labels=[sources[int(i)] for i in soft],
        weights=1 - weights[soft],
    )
    return join(replace(generated, weights=weights), rest)


def mixed(
    generated: Examples,
    real: Examples,
    mixer: Mixer,
    *,
    backbone: ImageModel,
    seed: int,
    sources: Examples | None = None,
) -> tuple[Examples, pd.DataFrame]:
    """Mix each generated image with its source, or with a real one of its class in rotation.

    Returns the examples and a record. A mixture becomes two examples of one image, whose weights
    sum to one: the generated image's label with its share, and the real image's label with the
    rest. The record has one row per mixture: label, level (pixel or patch) and share.
    """
    partners = sources or take(real, _in_rotation(generated.labels, real.labels))
    levels: list[str] = []
    shares: list[float] = []

    def drawn() -> Iterator[Image.Image]:
        for start in range(0, len(generated.labels), AT_ONCE):
            first, second = (
                [resized(i, model=backbone) for i in part.images[start : start + AT_ONCE]]
                for part in (generated, partners)
            )
            for mixture in mixer(first, second, seed + start):
                levels.append(mixture.level)
                shares.append(mixture.share)
                yield mixture.image

    images, share = spooled(drawn()), np.array(shares)
    once = Examples(images, embed(images, model=backbone), generated.labels, share)
    rest = replace(once, labels=partners.labels, weights=1 - share)
    record = pd.DataFrame({"label": generated.labels, "level": levels, "share": share})
    return join(once, take(rest, list(np.flatnonzero(share < 1)))), record


def _in_rotation(wanted: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Return a row of `labels` for each wanted class, taking the rows of a class in rotation."""
    members = {c: np.flatnonzero(np.array(labels) == c) for c in set(wanted)}
    turn = pd.Series(list(wanted), dtype=str).groupby(list(wanted)).cumcount()
    return [int(members[c][i % len(members[c])]) for c, i in zip(wanted, turn, strict=True)]


def shortfall(wanted: Mapping[str, int], labels: Sequence[str]) -> dict[str, int]:
    """Return the number of missing samples per class, omitting classes that have enough."""
    missing = {label: count - list(labels).count(label) for label, count in wanted.items()}
    return {label: count for label, count in missing.items() if count > 0}
