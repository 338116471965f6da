"""How often the intervals of a single data set contain the truth.

    python -m benchmarks.coverage

Each draw trains classifiers on images from the bundled training pool, without and with `added` more
real images per class in place of generated images. The truth is the accuracy of these classifiers,
or their gain, on all 5,000 images in the test pool.

- query images: one task has 20 support images per class, and a part of the test pool as query
  images; the interval is the paired bootstrap interval
- splits: drawn images are split five times into support and query images; the interval is that of
  Nadeau and Bengio

The output is benchmarks/coverage.csv. `coverage` is the share of draws whose 95% interval contains
the truth, and `width` is the mean width of the interval. `exact_width` is the width of Clopper and
Pearson's interval or, for a gain, the sum of two such widths at 97.5%. `needed_width` is the width
of an interval around the estimate that contains the truth in 95% of the draws. `added` is 0 for the
accuracy of the baseline.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd
from scipy.stats import binomtest

from genie.classify.backbone import load_backbone
from genie.classify.classifier import fit, predict
from genie.classify.examples import Examples, join, load_examples
from genie.classify.settings import TrainingSettings
from genie.cli.places import features_file
from genie.core.seeding import numbered_rng
from genie.core.tables import read_images
from genie.measure.evaluation import near_duplicate_groups
from genie.measure.metrics import DIFFERENCE, SHARE, Interval, bootstrap, interval
from genie.progress import bar

SHOTS, QUERIES, ADDED = 20, (3, 10, 30, 60), (0, 1, 10)  # images per class
SPLITS, FRACTION, OWN = 5, 0.3, (30, 100)  # OWN: images per class that are split

Row = dict[str, object]


def answers(examples: Examples, support: np.ndarray, spare: np.ndarray) -> list[np.ndarray]:
    """Return whether the baseline is right for each image, and the gains from added images."""
    right = []
    for added in ADDED:
        rows = np.concatenate([support.ravel(), spare[:, :added].ravel()])
        train = Examples([], examples.embeddings[rows], [examples.labels[row] for row in rows])
        predicted = predict(fit(train, TrainingSettings(head="logistic")), examples)
        right.append((predicted == np.array(examples.labels)).astype(float))
    return [right[0], *(own - right[0] for own in right[1:])]


def exact_width(values: np.ndarray, bounds: tuple[float, float]) -> float:
    """Return the width of the exact interval of a share, or of the difference of two shares."""
    level, signs = (0.95, (1,)) if bounds == SHARE else (0.975, (1, -1))
    counts = (int((values == sign).sum()) for sign in signs)
    parts = (binomtest(count, len(values)).proportion_ci(level) for count in counts)
    return float(sum(part.high - part.low for part in parts))


def row_of(over: str, added: int, queries: int, found: Interval, truth: float) -> Row:
    mean, low, high = (float(end or 0) for end in (found.mean, found.low, found.high))
    row: Row = {"over": over, "added": added, "queries": queries, "inside": low <= truth <= high}
    return row | {"width": high - low, "error": abs(mean - truth)}


def rows_of(examples: Examples, places: np.ndarray, groups: np.ndarray, draw: int) -> Iterator[Row]:
    """Yield the intervals of one draw for each measure and each number of images.

    `places` (c, n) contains the positions of images by class; images from the training pool come
    first.
    """
    rng, (train, test) = numbered_rng(draw, label="coverage"), np.split(places, 2, axis=1)
    mixed = rng.permuted(train, axis=1)
    found = answers(examples, mixed[:, :SHOTS], mixed[:, -max(ADDED) :])
    kinds = [DIFFERENCE if added else SHARE for added in ADDED]
    for count in QUERIES:
        asked = rng.permuted(test, axis=1)[:, :count].ravel()
        for added, bounds, values in zip(ADDED, kinds, found, strict=True):
            own, truth = values[asked], float(values[test].mean())
            ends = bootstrap(own[:, None], groups[asked], bounds=bounds)
            row = row_of("query images", added, len(asked), ends, truth)
            yield row | {"exact_width": exact_width(own, bounds)}
    for count in OWN:
        splits = []
        for _ in range(SPLITS):
            own = rng.permuted(mixed[:, :count], axis=1)
            query, support = np.split(own, [round(FRACTION * count)], axis=1)
            each = answers(examples, support, mixed[:, -max(ADDED) :])
            splits.append([(values[query].mean(), values[test].mean()) for values in each])
        for added, bounds, pairs in zip(ADDED, kinds, np.swapaxes(splits, 0, 1), strict=True):
            ends = interval(pairs[:, 0], bounds=bounds, shared=FRACTION)
            yield row_of("splits", added, query.size, ends, float(pairs[:, 1].mean()))


@click.command(help=__doc__)
@click.option("--draws", default=200, show_default=True)
@click.option("--out", type=Path, default="benchmarks/coverage.csv", show_default=True)
def main(draws: int, out: Path) -> None:
    parts = [read_images(Path("data/bundled") / name) for name in ("train", "test")]
    backbone = load_backbone(Path("zoo/backbone"), cache=features_file(Path()))
    examples = join(*(load_examples(part, backbone=backbone) for part in parts))
    groups, labels = np.array(near_duplicate_groups(pd.concat(parts))), np.array(examples.labels)
    places = np.stack([np.flatnonzero(labels == name) for name in np.unique(labels)])
    numbers = bar(range(draws), "coverage", total=draws, unit="draw")
    rows = [row for draw in numbers for row in rows_of(examples, places, groups, draw)]
    table = pd.DataFrame(rows).groupby(["over", "queries", "added"])
    found = table.agg(
        draws=("inside", "size"), coverage=("inside", "mean"), width=("width", "mean")
    )
    found["exact_width"] = table["exact_width"].mean()
    found["needed_width"] = 2 * table["error"].quantile(0.95)
    found.round(4).reset_index().to_csv(out, index=False, lineterminator="\n")
    click.echo(found.round(4).to_string())


if __name__ == "__main__":
    main()
