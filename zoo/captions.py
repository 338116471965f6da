"""Captions of the bundled support images, so that Cap2Aug runs on them without a captioner.

No captioning model is embedded. The small CLIP picks, for each image, the nearest of the prompts
that the zoo was trained on: it errs as captioners do, by naming another class.
"""

from pathlib import Path

import click
import numpy as np
import pandas as pd

from genie.clip import embed_images, embed_texts, load_clip
from genie.records import CAPTION_COLUMNS, decode_png, read_images, write_table
from zoo.fashion_mnist import BUNDLED, CLASSES
from zoo.generator_parts import TEMPLATES, prompts

CAPTIONS = Path("prompts/captions.csv")


def captioned(images: pd.DataFrame, *, clip_folder: Path) -> pd.DataFrame:
    """The images table's ids and labels with the nearest prompt as caption, and its class."""
    clip = load_clip(clip_folder, parameter="zoo/clip")
    texts = [text for text in prompts() if text]
    pictures = [decode_png(png) for png in images["png"]]
    similarity = embed_images(pictures, clip) @ embed_texts(texts, clip).T
    nearest = similarity.argmax(1)
    return images[["image_id", "label"]].assign(
        caption=np.array(texts)[nearest], named=np.array(CLASSES)[nearest // len(TEMPLATES)]
    )


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=CAPTIONS, show_default=True)
def main(out: Path) -> None:
    table = captioned(read_images(BUNDLED / "train"), clip_folder=Path("zoo/clip"))
    write_table(table, out, columns=CAPTION_COLUMNS)
    share = (table["named"] == table["label"]).mean()
    click.echo(f"{len(table)} captions in {out}, {share:.0%} of them name the image's own class")


if __name__ == "__main__":
    main()
