"""Training samples of a classifier; their number is the same for every method.

Copies of real images make up the difference if a method generates too few images. A method may also
mix its generated images with real ones. COPIERS and MIXERS in `transforms` list the functions for
copying and mixing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from PIL import Image

from genie.classify.backbone import ImageModel, embed, resized
from genie.classify.examples import Examples, join, take
from genie.classify.transforms import Copier, Copies, Mixer
from genie.data.pictures import Pictures, spooled

AT_ONCE = 256
"""Number of images copied or mixed at a time; real images are mixed only within this batch."""


def copies(
    examples: Examples,
    counts: Mapping[str, int],
    copier: Copier,
    *,
    backbone: ImageModel,
    seed: int,
) -> Examples:
    """Make `counts[label]` copies for each class with `copier`, using its images in rotation."""
    labels = np.array(examples.labels)
    rows = [
        int(members[i % len(members)])
        for label, count in sorted(counts.items())
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
    """Add the source's class as a second label, with weight 1 - w for label weights w (n,).

    Images with label weight 1 are unchanged. Each other image becomes two examples.
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
    """Mix each generated image with its source, or with a real image of its class in rotation.

    Return the examples and a table of the mixtures. A mixture becomes two examples with the same
    image, whose weights sum to one. The generated image's label has its share as the weight, and
    the real image's label has the remainder. The table has one row per mixture: label, level (pixel
    or patch) and share.
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


def _in_rotation(classes: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Return a row of `labels` for each entry in `classes`, using a class's rows in rotation."""
    members = {c: np.flatnonzero(np.array(labels) == c) for c in set(classes)}
    turn = pd.Series(list(classes), dtype=str).groupby(list(classes)).cumcount()
    return [int(members[c][i % len(members[c])]) for c, i in zip(classes, turn, strict=True)]


def shortfall(counts: Mapping[str, int], labels: Sequence[str]) -> dict[str, int]:
    """Return the number of missing samples per class, omitting classes that have enough."""
    missing = {label: count - list(labels).count(label) for label, count in counts.items()}
    return {label: count for label, count in missing.items() if count > 0}
