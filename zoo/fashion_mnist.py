"""Fashion-MNIST, split into three disjoint parts, and its bundled images."""

import gzip
import shutil
import subprocess
from pathlib import Path

import click
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from genie.core.errors import GenieError
from genie.core.tables import write_images
from genie.data.images import encode_png, image_id
from genie.data.near_duplicates import drop_near_duplicates
from zoo.parts import Part, Parts, split

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
PACKAGE = "dataset-fashion-mnist"
CACHE = Path(".genie/fashion-mnist")
BUNDLED = Path("data/bundled")
SUPPORT_POOL = 10_000
PER_CLASS = 500
SPARE = 20  # extra query images per class, which replace near-duplicates of support images
SEED = 0
PADDING = 2


def load_parts(folder: Path | None = None, *, seed: int = SEED) -> Parts:
    """Load the three disjoint parts from `folder`, or from the downloaded package if it is None."""
    folder = folder or fetch(CACHE)
    train, query = read_part(folder, "train"), read_part(folder, "t10k")
    return split(train, query, support=SUPPORT_POOL, seed=seed)


def fetch(cache: Path) -> Path:
    """Return the folder with the four idx.gz files; download the Debian package if needed."""
    folder = cache / "usr/share/datasets/fashion-mnist"
    if (folder / "t10k-images-idx3-ubyte.gz").is_file():
        return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise GenieError(
            f"Fashion-MNIST comes from the Debian package {PACKAGE}, and this machine has no "
            "apt-get and dpkg; pass --data FOLDER with the four idx.gz files"
        )
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", PACKAGE], cwd=cache, check=True)
    for package in cache.glob(f"{PACKAGE}_*.deb"):
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=cache, check=True)
    return folder


def read_part(folder: Path, name: str) -> Part:
    """Read the part `name`, train or t10k, and pad its images from 28 to 32 pixels with black."""
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")
    border = (PADDING, PADDING)
    return Part(np.pad(images, ((0, 0), border, border)), labels.astype(np.int64))


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file as a uint8 array (http://yann.lecun.com/exdb/mnist)."""
    if not path.is_file():
        raise GenieError(f"{path} does not exist; --data must hold the four idx.gz files")
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, dtype=">i4", count=dimensions, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def to_image(grey: np.ndarray) -> Image.Image:
    """Convert a (32, 32) uint8 array to an RGB image."""
    return Image.fromarray(grey).convert("RGB")


def bundle(part: Part, *, per_class: int) -> pd.DataFrame:
    """Return a table of the first `per_class` images of each class, ordered by class."""
    rows = [np.flatnonzero(part.labels == index)[:per_class] for index in range(len(CLASSES))]
    return pd.DataFrame(
        [
            _record(part.images[row], CLASSES[part.labels[row]])
            for row in tqdm(np.concatenate(rows), desc="encoding", unit="image")
        ]
    )


def _record(grey: np.ndarray, label: str) -> dict[str, object]:
    image = to_image(grey)
    return {"image_id": image_id(image), "label": label, "png": encode_png(image)}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the four idx.gz files.")
@click.option("--out", type=click.Path(path_type=Path), default=BUNDLED, show_default=True)
def main(data: Path | None, out: Path) -> None:
    """Write the bundled images: train/ from the support pool, test/ from the query images.

    Query images that nearly duplicate a bundled support image of their class are left out.
    """
    try:
        parts = load_parts(data)
    except GenieError as error:
        raise click.ClickException(str(error)) from error
    support = bundle(parts.support, per_class=PER_CLASS)
    more = bundle(parts.query, per_class=PER_CLASS + SPARE)
    query = drop_near_duplicates(more, support).groupby("label", sort=False).head(PER_CLASS)
    write_images(support, out / "train")
    write_images(query, out / "test")


if __name__ == "__main__":
    main()
