"""Training of the bundled models on the pretraining part of their data."""

import os
from collections.abc import Sequence
from pathlib import Path

import click
import torch.distributed as dist
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from genie.core.errors import GenieError
from zoo.clip_part import save_clip, train_clip
from zoo.feature_parts import save_features, train_backbone, train_oracle
from zoo.generator_parts import (
    LATENTS,
    save_generator,
    train_denoiser,
    train_vae,
    training_latents,
)
from zoo.loop import rank
from zoo.parts import Part
from zoo.recipes import RECIPES, Recipe

PARTS = ("vae", "unet", "oracle", "backbone", "clip")


@click.command()
@click.option("--recipe", "name", type=click.Choice(list(RECIPES)), default="fashion")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Default: all.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the data's files.")
def main(name: str, parts: tuple[str, ...], data: Path | None) -> None:
    """Train the models. An interrupted run resumes from its checkpoints in .genie/zoo."""
    recipe = RECIPES[name]
    if "WORLD_SIZE" in os.environ:  # under torchrun
        dist.init_process_group("gloo")
    wanted = parts or PARTS
    if set(wanted) - {"unet"} or not (recipe.state / LATENTS).is_file():
        train_on_images(_pretraining(recipe, data), recipe, wanted)
    if "unet" in wanted:
        train_generator(recipe)


def _pretraining(recipe: Recipe, data: Path | None) -> Part:
    try:
        return recipe.load(data).pretraining
    except GenieError as error:
        raise click.ClickException(str(error)) from error


def train_on_images(part: Part, recipe: Recipe, wanted: Sequence[str]) -> None:
    """Train and save all `wanted` parts except the denoiser, and store its training latents."""
    latents = recipe.state / LATENTS
    if "vae" in wanted:
        vae = train_vae(part, recipe)
        if rank() == 0:
            vae.register_to_config(_name_or_path="")
            vae.half().save_pretrained(vae_folder(recipe))
            latents.unlink(missing_ok=True)
    if "unet" in wanted and not latents.is_file() and rank() == 0:
        vae = load_vae(recipe)
        latents.parent.mkdir(parents=True, exist_ok=True)
        save_file(training_latents(vae, part, mirrored=recipe.mirrored), latents)
    if dist.is_initialized():
        dist.barrier()  # the other processes read the latents too
    if "oracle" in wanted:
        oracle = train_oracle(part, recipe)
        save_features(oracle, recipe.out / "oracle", size=recipe.oracle_size)
    if "backbone" in wanted:
        backbone = train_backbone(part, recipe)
        save_features(backbone, recipe.out / "backbone", size=recipe.backbone_size)
    if "clip" in wanted:
        save_clip(train_clip(part, recipe), recipe, recipe.out / "clip")


def train_generator(recipe: Recipe) -> None:
    """Train the denoiser on stored latents of the autoencoder and save the pipeline."""
    denoiser = train_denoiser(recipe)
    if rank() == 0:
        save_generator(load_vae(recipe), denoiser, recipe, recipe.out / "generator")


def vae_folder(recipe: Recipe) -> Path:
    """Return the folder of the autoencoder, which is saved before the rest of the generator."""
    return recipe.out / "generator" / "vae"


def load_vae(recipe: Recipe) -> AutoencoderKL:
    """Load the trained autoencoder in float32; if it is missing, exit with an error."""
    folder = vae_folder(recipe)
    if not folder.is_dir():
        raise click.ClickException(f"{folder} does not exist; train it with --part vae")
    return AutoencoderKL.from_pretrained(folder).float().eval()


if __name__ == "__main__":
    main()
