"""The augmentation set on disk: images, `metadata.csv`, `members.csv`, `trajectories.parquet`.

The folder is a valid Hugging Face `imagefolder` data set and a torchvision ImageFolder tree, so
other tools can load it as it is.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
from PIL import Image

from genie.data.images import decode_image, image_id
from genie.data.pictures import Pictures
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
) -> pd.DataFrame:
    """Write the set and return its members table.

    `trajectories` has the columns of TRAJECTORIES and those of the requests. `provenance` holds the
    values that all images share: method, guidance_scale, scheduler, generator, fingerprint.
    `png_of` returns the PNG bytes of the image with a given key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    members = members_of(trajectories)
    images = members.drop_duplicates("file_name").sort_values("file_name").assign(**provenance)
    contents = []
    for row in images.itertuples():
        path = folder / str(row.file_name)
        path.parent.mkdir(exist_ok=True)
        png = png_of(str(row.key))
        path.write_bytes(png)
        contents.append(image_id(decode_image(png)))
    # later stages depend on metadata.csv, so it must change whenever the pixels of an image do
    images["image_id"] = contents
    write_table(images, folder / "metadata.csv", METADATA)
    write_table(members, folder / "members.csv", MEMBERS)
    write_table(trajectories, folder / "trajectories.parquet", TRAJECTORIES)
    return members


def read_set(folder: Path, members: pd.DataFrame) -> tuple[list[str], Pictures]:
    """Return the distinct file names of the set, sorted, and the images in the same order."""
    files = sorted(set(members["file_name"]))
    return files, Pictures(partial(read_image, folder), files)


def read_image(folder: Path, name: str) -> Image.Image:
    """Read an image of the set by its file name.

    Raise GenieError if the name leads out of the folder, or if the image is missing or damaged.
    """
    path = inside(folder, name)
    try:
        return decode_image(path.read_bytes())
    except Exception as error:  # decoders of damaged bytes raise anything
        raise GenieError(
            f"{path} must be an image of the set, but: {one_line(error)}; run `genie verify "
            "--repair`, then `dvc repro`"
        ) from error
