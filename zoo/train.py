"""Training of the embedded models on the pretraining part of Fashion-MNIST."""

from pathlib import Path

import click
from diffusers import AutoencoderKL

from genie.errors import GenieError
from zoo.clip_part import save_clip, train_clip
from zoo.fashion_mnist import Part, load_parts
from zoo.feature_parts import save_features, train_backbone, train_oracle
from zoo.generator_parts import save_generator, train_denoiser, train_vae
from zoo.loop import STATE

ZOO = Path("zoo")
PARTS = ("vae", "unet", "oracle", "backbone", "clip")


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Default: all.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the four idx.gz files.")
@click.option("--out", type=click.Path(path_type=Path), default=ZOO, show_default=True)
@click.option("--state", type=click.Path(path_type=Path), default=STATE, show_default=True)
def main(parts: tuple[str, ...], data: Path | None, out: Path, state: Path) -> None:
    """Train the models. An interrupted run resumes from its checkpoints in --state."""
    try:
        part = load_parts(data).pretraining
    except GenieError as error:
        raise click.ClickException(str(error)) from error
    wanted = parts or PARTS
    if "vae" in wanted:
        train_vae(part, state=state).save_pretrained(state / "vae")
    if "unet" in wanted:
        train_generator(part, out=out, state=state)
    if "oracle" in wanted:
        save_features(train_oracle(part, state=state), out / "oracle")
    if "backbone" in wanted:
        save_features(train_backbone(part, state=state), out / "backbone")
    if "clip" in wanted:
        save_clip(train_clip(part, state=state), out / "clip")


def train_generator(part: Part, *, out: Path, state: Path) -> None:
    """Train the denoiser on latents of the autoencoder in `state` and save the pipeline."""
    if not (state / "vae").is_dir():
        raise click.ClickException(f"{state / 'vae'} does not exist; train it with --part vae")
    vae = AutoencoderKL.from_pretrained(state / "vae").eval()
    save_generator(vae, train_denoiser(vae, part, state=state), out / "generator")


if __name__ == "__main__":
    main()
