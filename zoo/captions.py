"""Write captions for the bundled support images, so that Cap2Aug runs without a captioning model.

No captioning model is bundled. Instead, the bundled CLIP model selects, for each image, the nearest
of the zoo's training prompts. Like a captioning model, CLIP sometimes selects the wrong class;
`captions.json` next to the models records the share of captions that name the correct class.
"""

import json

import click
import numpy as np
import pandas as pd

from genie.classify.clip import embed_images, embed_texts, load_clip
from genie.core.tables import CAPTIONS, read_images, write_table
from genie.data.images import decode_image
from zoo.generator_parts import TEMPLATES, prompts
from zoo.recipes import RECIPES, Recipe


def captioned(images: pd.DataFrame, recipe: Recipe) -> pd.DataFrame:
    """Return the ids and labels of images with their captions.

    The column `caption` contains the nearest prompt, and `named` the class of that prompt.
    """
    clip = load_clip(recipe.out / "clip", argument=f"{recipe.out}/clip")
    texts = [text for text in prompts(recipe) if text]
    pictures = [decode_image(png) for png in images["png"]]
    similarity = embed_images(pictures, clip) @ embed_texts(texts, clip).T
    nearest = similarity.argmax(1)
    return images[["image_id", "label"]].assign(
        caption=np.array(texts)[nearest], named=np.array(recipe.classes)[nearest // len(TEMPLATES)]
    )


@click.command(help=__doc__)
@click.option("--recipe", "name", type=click.Choice(list(RECIPES)), default="fashion")
def main(name: str) -> None:
    recipe = RECIPES[name]
    out = recipe.prompts / "captions.csv"
    table = captioned(read_images(recipe.data / "train"), recipe)
    write_table(table, out, CAPTIONS)
    share = float((table["named"] == table["label"]).mean())
    record = {"images": len(table), "name_own_class": round(share, 6)}
    (recipe.out / "captions.json").write_text(json.dumps(record, indent=2) + "\n")
    click.echo(f"{len(table)} captions in {out}, {share:.0%} of them name the image's own class")


if __name__ == "__main__":
    main()
