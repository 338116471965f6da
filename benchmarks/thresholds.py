"""Bounds of the filter `cosine` for a CLIP and a data set, from real images of the support pool.

    python -m benchmarks.thresholds
    python -m benchmarks.thresholds --data data/cifar10 --clip zoo/photographs/clip \\
        --out benchmarks/thresholds-photographs.csv

`filter.min_text` is the similarity to their class's prompt below which 5% of real images fall,
`filter.min_image` that to the mean of the other images of their class. Both are rounded down to
two digits. No query image is read. With few support images the second similarity spreads more. For
each number of support images, drawn once for each image, a row therefore has the shares of a
class's real images, and of those of all other classes, that pass both bounds.
Out: benchmarks/thresholds.csv.
"""

from pathlib import Path

import click
import numpy as np
import pandas as pd

from genie.classify.clip import Clip, embed_images, embed_texts, load_clip
from genie.cli.places import features_file
from genie.core.errors import GenieError
from genie.core.tables import Schema, write_table
from genie.data.images import decode_image
from genie.data.prompts import prompt_for
from genie.data.readers import read_pools

BOUNDS: Schema = {
    "min_text": float,
    "min_image": float,
    "support_images": int,
    "below_text": float,
    "below_image": float,
    "kept": float,
    "others_kept": float,
    "n": int,
}
SHARE = 0.05
SHOTS = (1, 5, 20)
SEED = 0


def to_support(z: np.ndarray, labels: np.ndarray, shots: int | None) -> np.ndarray:
    """Return the mean similarity of each image to images of each class, (n, classes).

    `z` (n, d) holds unit vectors. `shots` images are drawn for each image and class, all for None;
    an image is never compared with itself. Classes are sorted.
    """
    rng = np.random.default_rng(SEED)
    columns = []
    for label in sorted(set(labels)):
        own = np.flatnonzero(labels == label)
        order = rng.random((len(z), len(own)))
        order[own, np.arange(len(own))] = 2  # drawn last
        drawn = order < 2 if shots is None else order.argsort(1).argsort(1) < shots
        columns.append(np.average(z @ z[own].T, axis=1, weights=drawn))
    return np.stack(columns, axis=1)


def bound(similarities: np.ndarray) -> float:
    """Return the similarity below which SHARE of the images fall, rounded down to two digits."""
    return float(np.floor(100 * np.quantile(similarities, SHARE)) / 100)


def thresholds(z: np.ndarray, labels: np.ndarray, z_prompts: np.ndarray) -> pd.DataFrame:
    """Return the bounds, and what passes them with few and with all support images (schema BOUNDS).

    `z` (n, d) and `z_prompts` (classes, d) are unit vectors; classes are sorted.
    """
    own = labels[:, None] == np.array(sorted(set(labels)))
    smallest = int(own.sum(0).min())
    if smallest < 2:
        raise GenieError("--data must have at least 2 training images per class, got a class of 1")
    to_text, whole = z @ z_prompts.T, to_support(z, labels, None)
    min_text, min_image = bound(to_text[own]), bound(whole[own])
    rows = []
    for shots in [k for k in SHOTS if k < smallest - 1] + [smallest - 1]:
        to_image = whole if shots == smallest - 1 else to_support(z, labels, shots)
        kept = (to_text >= min_text) & (to_image >= min_image)
        below = (to_text < min_text)[own].mean(), (to_image < min_image)[own].mean()
        shares = (*below, kept[own].mean(), kept[~own].mean())
        rows.append((min_text, min_image, shots, *np.round(shares, 6), len(z)))
    return pd.DataFrame(rows, columns=list(BOUNDS))


def measure(images: pd.DataFrame, clip: Clip) -> pd.DataFrame:
    """Return the thresholds of an images table."""
    labels = images["label"].to_numpy(str)
    z = embed_images([decode_image(png) for png in images["png"]], clip)
    return thresholds(z, labels, embed_texts([prompt_for(c) for c in sorted(set(labels))], clip))


@click.command(help=__doc__)
@click.option("--data", type=Path, default="data/bundled", show_default=True)
@click.option("--clip", "model", type=Path, default="zoo/clip", show_default=True)
@click.option("--out", type=Path, default="benchmarks/thresholds.csv", show_default=True)
def main(data: Path, model: Path, out: Path) -> None:
    try:
        pool, _ = read_pools(data)
        clip = load_clip(model, argument="--clip", cache=features_file(Path()))
        table = measure(pool, clip)
    except GenieError as error:
        raise click.ClickException(str(error)) from error
    write_table(table, out, BOUNDS)
    click.echo(table.to_string(index=False))
    first = table.iloc[0]
    click.echo(
        f"-S filter.min_text={first['min_text']:g} -S filter.min_image={first['min_image']:g}"
    )


if __name__ == "__main__":
    main()
