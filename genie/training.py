"""From tables to the examples a classifier trains on, equally many for every method."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from genie.backbones import ImageModel, embed, resized
from genie.classifiers import Examples, join, take
from genie.records import decode_png
from genie.tasks import groups
from genie.transforms import Fill, Mix


def load_examples(images: pd.DataFrame, *, backbone: ImageModel) -> Examples:
    """An images table as decoded images with embeddings, each computed once, in table order."""
    pictures = [decode_png(png) for png in images["png"]]
    return Examples(pictures, embed(pictures, model=backbone), list(images["label"]))


def picker(examples: Examples, ids: Iterable[str]) -> Callable[[Iterable[str]], Examples]:
    """From wanted ids to examples, in the order wanted; `ids` names all examples in theirs."""
    position = {image_id: i for i, image_id in enumerate(ids)}
    return lambda wanted: take(examples, [position[image_id] for image_id in wanted])


def generated_per_class(
    labels: Sequence[str], *, per_class: int, classes: str, every_source: bool
) -> dict[str, int]:
    """How many images each class of a task gets on top of its support images.

    `classes` "few" leaves out classes with 20 support images or more. `every_source` (strategy
    "all"): one per support image of all other classes, whatever `per_class` says.
    """
    counts = pd.Series(list(labels)).value_counts().sort_index()
    group = groups(counts)
    kept = [str(c) for c in counts.index if classes == "all" or group[c] == "few"]
    return {c: int(counts.sum() - counts[c]) if every_source else per_class for c in kept}


def copies(
    examples: Examples, wanted: Mapping[str, int], fill: Fill, *, backbone: ImageModel, seed: int
) -> Examples:
    """`wanted[label]` copies of each class by `fill`, its images taken in rotation."""
    labels = np.array(examples.labels)
    rows = [
        int(own[i % len(own)])
        for label, count in sorted(wanted.items())
        for own in [np.flatnonzero(labels == label)]
        for i in range(count)
    ]
    originals = resized([examples.images[i] for i in rows], model=backbone)
    made = fill(originals, [examples.labels[i] for i in rows], seed)
    if not rows:
        return take(examples, [])
    drawn = Examples(made.images, embed(made.images, model=backbone), [""] * len(made.images))
    chosen = take(drawn, list(made.rows))
    return Examples(chosen.images, chosen.embeddings, made.labels, np.array(made.weights))


def mixed(
    generated: Examples, real: Examples, mix: Mix, *, backbone: ImageModel, seed: int
) -> tuple[Examples, pd.DataFrame]:
    """Each generated image mixed with a real one of its class, taken in rotation; and its record.

    A mixture counts for the generated image's label with the generated one's share and for the
    real one's with the rest: two examples of one image, whose weights sum to one. The record has a
    row per mixture: label, level (pixel or patch) and share.
    """
    own = {c: np.flatnonzero(np.array(real.labels) == c) for c in set(generated.labels)}
    turn = pd.Series(list(generated.labels), dtype=str).groupby(list(generated.labels)).cumcount()
    partners = [int(own[c][i % len(own[c])]) for c, i in zip(generated.labels, turn, strict=True)]
    own_size = resized(generated.images, model=backbone)
    mixtures = mix(own_size, resized([real.images[i] for i in partners], model=backbone), seed)
    images = [m.image for m in mixtures]
    share = np.array([m.share for m in mixtures])
    once = Examples(images, embed(images, model=backbone), generated.labels, share)
    rest = replace(once, labels=[real.labels[i] for i in partners], weights=1 - share)
    record = {"label": generated.labels, "level": [m.level for m in mixtures], "share": share}
    return join(once, rest), pd.DataFrame(record)


def shortfall(wanted: Mapping[str, int], labels: Sequence[str]) -> dict[str, int]:
    """How many samples of each class are still missing, classes that miss none left out."""
    missing = {label: count - list(labels).count(label) for label, count in wanted.items()}
    return {label: count for label, count in missing.items() if count > 0}
