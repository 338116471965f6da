"""Write captions of the bundled support images, so that Cap2Aug runs without a captioning model.

No captioning model is embedded. Instead, the embedded CLIP selects for each image the nearest of
the zoo's training prompts. Like a captioning model, it sometimes names the wrong class.
"""

from pathlib import Path

import click
import numpy as np
import pandas as pd

from genie.classify.clip import embed_images, embed_texts, load_clip
from genie.data.images import decode_image
from genie.tables import CAPTIONS, read_images, write_table
from zoo.generator_parts import TEMPLATES, prompts
from zoo.recipes import FASHION

OUT = Path("prompts/captions.csv")


def captioned(images: pd.DataFrame, *, clip_folder: Path) -> pd.DataFrame:
    """Return the ids and labels of images with their captions.

    The column `caption` holds the nearest prompt, and `named` the class of that prompt.
    """
    clip = load_clip(clip_folder, parameter="zoo/clip")
    texts = [text for text in prompts(FASHION) if text]
    pictures = [decode_image(png) for png in images["png"]]
    similarity = embed_images(pictures, clip) @ embed_texts(texts, clip).T
    nearest = similarity.argmax(1)
    return images[["image_id", "label"]].assign(
        caption=np.array(texts)[nearest], named=np.array(FASHION.classes)[nearest // len(TEMPLATES)]
    )


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(out: Path) -> None:
    table = captioned(read_images(FASHION.data / "train"), clip_folder=Path("zoo/clip"))
    write_table(table, out, CAPTIONS)
    share = (table["named"] == table["label"]).mean()
    click.echo(f"{len(table)} captions in {out}, {share:.0%} of them name the image's own class")


if __name__ == "__main__":
    main()
