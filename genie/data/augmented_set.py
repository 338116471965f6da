"""The augmentation set on disk: images, `metadata.csv`, `members.csv`, `trajectories.parquet`.

With a file per image, the folder is a valid Hugging Face `imagefolder` data set and a torchvision
ImageFolder tree, so other tools can load it as it is. With shards, it loads as a Parquet data set.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
from PIL import Image

from genie.data.images import decode_image, image_id
from genie.data.pictures import Pictures
from genie.data.shards import ShardRow, Shards, shard_files, write_shards
from genie.data.wording import slug
from genie.errors import GenieError, one_line
from genie.tables import MEMBERS, METADATA, TRAJECTORIES, inside, write_table

UNCLEAR = 1.1
"""A choice is unclear if its `shift_ratio` (largest over second largest shift) is below this."""


def members_of(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Return the chosen rows: which task uses which image, and the image's file name in the set."""
    chosen = trajectories[trajectories["chosen"]].rename(columns={"target_label": "label"})
    names = [
        f"{slug(label)}/{key}.png" for label, key in zip(chosen.label, chosen.key, strict=True)
    ]
    return chosen.assign(file_name=names)


def write_set(
    trajectories: pd.DataFrame,
    folder: Path,
    *,
    provenance: Mapping[str, object],
    png_of: Callable[[str], bytes],
    shard: int | None = None,
) -> pd.DataFrame:
    """Write the set and return its members table. Images that were in the folder are removed.

    `trajectories` has the columns of TRAJECTORIES and those of the requests. `provenance` holds the
    values that all images share: method, guidance_scale, scheduler, generator, fingerprint.
    `png_of` returns the PNG bytes of the image with a given key. With `shard`, Parquet shards hold
    that many images each; without, each image is a file. The tables are the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_images(folder)
    members = members_of(trajectories)
    images = members.drop_duplicates("file_name").sort_values("file_name").assign(**provenance)
    contents = []

    def rows() -> Iterator[ShardRow]:
        for row in images.itertuples():
            png = png_of(str(row.key))
            contents.append(image_id(decode_image(png)))
            yield ShardRow(str(row.file_name), str(row.label), png)

    if shard is None:
        _write_files(rows(), folder)
    else:
        write_shards(rows(), folder, size=shard)
    # later stages depend on metadata.csv, so it must change whenever the pixels of an image do
    images["image_id"] = contents
    write_table(images, folder / "metadata.csv", METADATA)
    write_table(members, folder / "members.csv", MEMBERS)
    write_table(trajectories, folder / "trajectories.parquet", TRAJECTORIES)
    return members


def read_set(folder: Path, members: pd.DataFrame) -> tuple[list[str], Pictures]:
    """Return the distinct file names of the set, sorted, and the images in the same order."""
    files = sorted(set(members["file_name"]))
    return files, Pictures(image_reader(folder), files)


def image_reader(folder: Path) -> Callable[[str], Image.Image]:
    """Return the function that reads an image of the set by its file name, from file or shard.

    It raises GenieError if the name leads out of the folder, or if the image is missing or damaged.
    So does this function, for a damaged shard.
    """
    shards = shard_files(folder)
    png_of = Shards(shards).png if shards else lambda name: inside(folder, name).read_bytes()
    return partial(_read_image, folder, png_of)


def _read_image(folder: Path, png_of: Callable[[str], bytes], name: str) -> Image.Image:
    path = inside(folder, name)
    try:
        return decode_image(png_of(name))
    except Exception as error:  # decoders of damaged bytes raise anything
        raise GenieError(
            f"{path} must be an image of the set, but: {one_line(error)}; run `genie verify "
            "--repair`, then `dvc repro`"
        ) from error


def _write_files(rows: Iterable[ShardRow], folder: Path) -> None:
    for row in rows:
        path = folder / row.file_name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(row.png)


def _remove_images(folder: Path) -> None:
    """Remove what an earlier run left, which may be in the other form or linked to DVC's cache."""
    files = list(folder.glob("*/*.png"))
    for path in (*files, *shard_files(folder)):
        path.unlink()
    for parent in {path.parent for path in files}:
        if not any(parent.iterdir()):
            parent.rmdir()
