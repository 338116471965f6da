"""CIFAR-10 with a biased support pool, and its query images grouped by background.

    python -m zoo.biased

The background of an image is the mean colour of its border in CIE Lab. Outputs:

- `data/cifar10-groups.csv`: for each query image, the third of its class that its background falls
  into, from `usual` to `unusual`, by Mahalanobis distance to the support pool of the class
- `data/cifar10-biased/`: for each class, the quarter of the support pool with the brightest or
  darkest borders, with opposite ends for the most confused classes; also, all query images
- `data/cifar10-biased-groups.csv`: the same column, and each image's third by brightness, from
  `aligned` (like the support images of the class) to `counter`
"""

from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from kornia.color import rgb_to_lab
from scipy.spatial.distance import cdist

from genie.classify.backbone import load_backbone
from genie.classify.classifier import out_of_fold
from genie.classify.examples import load_examples
from genie.classify.settings import TrainingSettings
from genie.core.tables import Schema, write_images, write_table
from genie.data.images import decode_image
from genie.data.readers import read_pools
from zoo import cifar10

BACKBONE = Path("zoo/photographs/backbone")
THIRDS = ("usual", "middle", "unusual")
ENDS = ("aligned", "neutral", "counter")
FRAME = 8  # the border is 1/8 of the side wide: 4 of 32 pixels
GROUPS: Schema = {"image_id": str, "third": str}
BIASED_GROUPS: Schema = {**GROUPS, "end": str}


def border_colours(images: pd.DataFrame) -> np.ndarray:
    """Return the mean border colours (n, 3), in CIE Lab (D65), of square images."""
    pixels = np.stack([np.asarray(decode_image(png)) for png in images["png"]])
    width = pixels.shape[1] // FRAME
    border = np.ones(pixels.shape[1:3], bool)
    border[width:-width, width:-width] = False
    rgb = torch.from_numpy(pixels[:, border] / 255)
    return rgb_to_lab(rgb.mT[..., None]).mean((2, 3)).numpy()


def distances(colours: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Return the Mahalanobis distances (n,) from colours (n, 3) to the distribution of a pool."""
    inverse = np.linalg.inv(np.cov(pool.T) + 1e-6 * np.eye(3))
    return cdist(colours, pool.mean(0, keepdims=True), "mahalanobis", VI=inverse)[:, 0]


def thirds(values: pd.Series, labels: pd.Series) -> pd.Series:
    """Return the third of its class that each value is in: 0 (lowest), 1 or 2.

    The sizes of the thirds differ by at most one. Equal values are ranked in order.
    """
    rank = values.groupby(labels).rank(method="first") - 1
    return (3 * rank // values.groupby(labels).transform("size")).astype(int)


def groups_of(pool: pd.DataFrame, query: pd.DataFrame) -> pd.DataFrame:
    """Return the image_id, label, third and brightness of each query image.

    `brightness` is the third of the class by lightness, from 0 (darkest) to 2.
    """
    known, seen = border_colours(pool), border_colours(query)
    distance = pd.Series(0.0, query.index)
    for label in query["label"].unique():
        own, real = ((images["label"] == label).to_numpy() for images in (query, pool))
        distance[own] = distances(seen[own], known[real])
    third = thirds(distance, query["label"]).map(dict(enumerate(THIRDS)))
    brightness = thirds(pd.Series(seen[:, 0], query.index), query["label"])
    return query[["image_id", "label"]].assign(third=third, brightness=brightness)


def opposite_ends(matrix: pd.DataFrame, lightness: pd.Series) -> dict[str, bool]:
    """Return whether the biased support images of each class are bright.

    Classes are paired greedily, the most confused pair first (`matrix`: true, predicted). In each
    pair, the class with the lighter borders is bright. A class without a partner is bright if its
    borders are lighter than the median.
    """
    both = matrix + matrix.T
    pairs = [(a, b) for a in both.index for b in both.index if a < b]
    ends: dict[str, bool] = {}
    for a, b in sorted(pairs, key=lambda pair: (-both.loc[pair], pair)):
        if a not in ends and b not in ends:
            ends[a] = bool(lightness[a] >= lightness[b])
            ends[b] = not ends[a]
    return {label: ends.get(label, lightness[label] > lightness.median()) for label in both.index}


def biased(pool: pd.DataFrame, lightness: pd.Series, ends: Mapping[str, bool]) -> pd.DataFrame:
    """Return the lightest quarter of each class, or the darkest if the class's `ends` is False."""
    kept = []
    for label, own in lightness.groupby(pool["label"]):
        ordered = own.sort_values(ascending=not ends[str(label)], kind="stable").index
        kept.append(pool.loc[ordered[: len(ordered) // 4]])
    return pd.concat(kept, ignore_index=True)


def confusion_of(pool: pd.DataFrame, backbone: Path) -> pd.DataFrame:
    """Return the mean out-of-fold probabilities (true, predicted) of the classes in the pool."""
    examples = load_examples(pool, backbone=load_backbone(backbone))
    table = pd.DataFrame(out_of_fold(examples, TrainingSettings()), columns=sorted(set(pool.label)))
    return table.groupby(pool["label"].to_numpy()).mean()


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path), default=cifar10.OUT, show_default=True)
@click.option("--backbone", type=click.Path(path_type=Path), default=BACKBONE, show_default=True)
def main(data: Path, backbone: Path) -> None:
    if not (data / "test").is_dir():
        raise click.ClickException(f"{data}/test does not exist; run `python -m zoo.cifar10` first")
    pool, query = read_pools(data)
    lightness = pd.Series(border_colours(pool)[:, 0], pool.index)
    ends = opposite_ends(confusion_of(pool, backbone), lightness.groupby(pool["label"]).mean())
    groups = groups_of(pool, query)
    away = groups["brightness"].where(~groups["label"].map(ends), 2 - groups["brightness"])
    groups["end"] = away.map(dict(enumerate(ENDS)))
    out = data.with_name(f"{data.name}-biased")
    write_images(biased(pool, lightness, ends), out / "train")
    write_images(query, out / "test")
    write_table(groups, data.with_name(f"{data.name}-groups.csv"), GROUPS)
    write_table(groups, data.with_name(f"{out.name}-groups.csv"), BIASED_GROUPS)
    click.echo("bright: " + ", ".join(label for label in ends if ends[label]))


if __name__ == "__main__":
    main()
