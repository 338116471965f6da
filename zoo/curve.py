"""The learning curve of the denoiser: label consistency by the number of training images."""

import tempfile
from pathlib import Path

import click
import matplotlib.pyplot as plt
import pandas as pd
from safetensors.torch import load_model

from genie.classify.backbone import ImageModel, load_oracle
from genie.render.model import load_generator
from zoo.evaluate import consistency, pictures, text_requests
from zoo.generator_parts import Denoiser, save_generator, word_tokenizer
from zoo.recipes import RECIPES, Recipe
from zoo.train import load_vae


def snapshots(recipe: Recipe) -> list[tuple[int, Path]]:
    """Return the snapshots of the denoiser with their numbers of steps, in ascending order."""
    files = recipe.state.glob("unet-*.safetensors")
    return sorted((int(path.stem.split("-")[1]), path) for path in files)


def measured(recipe: Recipe, path: Path, oracle: ImageModel, *, texts: int) -> float:
    """Return the label consistency, in [0, 1], of `texts` Txt2Img images from a snapshot."""
    denoiser = Denoiser(word_tokenizer(recipe), recipe)
    load_model(denoiser, path)
    vae = load_vae(recipe)
    requests = text_requests(texts, recipe.classes)
    with tempfile.TemporaryDirectory() as folder:
        save_generator(vae, denoiser, recipe, Path(folder))
        generator = load_generator(Path(folder))
        drawn = pictures(requests, generator, sources={}, name=path.stem)
    return consistency(drawn, [request.target_label for request in requests], oracle)


def draw_curve(table: pd.DataFrame, path: Path) -> None:
    """Draw label consistency with its 95% interval against the number of training images."""
    figure, axes = plt.subplots(figsize=(6, 4))
    error = 1.96 * table["standard_error"]
    axes.errorbar(table["images"] / 1000, table["consistency"], error, marker="o", capsize=3)
    axes.set(xlabel="training images (thousands)", ylabel="label consistency", ylim=(0, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


@click.command()
@click.option("--recipe", "name", type=click.Choice(list(RECIPES)), default="photographs")
@click.option("--texts", default=300, show_default=True, help="Text-to-image samples.")
def main(name: str, texts: int) -> None:
    """Write curve.csv and curve.png next to the models."""
    recipe = RECIPES[name]
    oracle = load_oracle(recipe.out / "oracle")
    began = (recipe.state / "latents.safetensors").stat().st_mtime
    rows = []
    for steps, path in snapshots(recipe):
        share = measured(recipe, path, oracle, texts=texts)
        minutes = (path.stat().st_mtime - began) / 60
        rows.append(
            {
                "steps": steps,
                "images": steps * recipe.unet.batch,
                "minutes": round(minutes, 1),
                "consistency": round(share, 4),
                "standard_error": round((share * (1 - share) / texts) ** 0.5, 4),
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(recipe.out / "curve.csv", index=False, lineterminator="\n")
    draw_curve(table, recipe.out / "curve.png")


if __name__ == "__main__":
    main()
