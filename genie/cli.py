"""The commands a person types."""

import os
from pathlib import Path

import click

from genie.captions import write_captions
from genie.convert import convert_resnet
from genie.errors import GenieError
from genie.fetch import fetch_dataset, fetch_model
from genie.records import decode_png, read_images


@click.group()
def main() -> None:
    """Tools around the GeNIe pipeline; `dvc repro` runs the pipeline itself."""


@main.command()
@click.argument("repo_id", metavar="ID")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--revision", default="main", show_default=True, help="branch, tag or commit")
@click.option("--kind", type=click.Choice(["model", "dataset"]), default="model", show_default=True)
@click.option("--config", help="configuration of a data set that has several")
def fetch(repo_id: str, folder: Path, revision: str, kind: str, config: str | None) -> None:
    """Bring a hub model or data set ID into FOLDER, once and pinned.

    Only safetensors are taken. A gated model needs a token in the environment (HF_TOKEN). A data
    set may also be a local folder.
    """
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        if kind == "model":
            commit: str | None = fetch_model(repo_id, folder, revision=revision, endpoint=endpoint)
        else:
            commit = fetch_dataset(
                repo_id, folder, revision=revision, config=config, endpoint=endpoint
            )
    except GenieError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from error
    click.echo(f"{kind} {repo_id} ({commit or 'local'}) is in {folder}")


@main.command("convert-resnet")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--size", default=224, show_default=True, help="pixels per side it was trained on")
def convert(checkpoint: Path, folder: Path, size: int) -> None:
    """Write CHECKPOINT, a ResNet with torchvision's names such as UniSiam's, to FOLDER.

    FOLDER then serves as classifier.backbone.
    """
    try:
        config = convert_resnet(checkpoint, folder, size=size)
    except GenieError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from error
    click.echo(f"a {config.layer_type} ResNet of depths {config.depths} is in {folder}")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("captions", type=click.Path(path_type=Path))
def caption(model: Path, images: Path, captions: Path) -> None:
    """Write a caption by MODEL for each of IMAGES into CAPTIONS, a CSV you may edit.

    MODEL is an image-to-text folder such as BLIP's, IMAGES is data/prepared/support. Captions that
    are there already stay.
    """
    try:
        table = read_images(images)
        pictures = [decode_png(png) for png in table["png"]]
        count = write_captions(
            pictures, list(table["image_id"]), list(table["label"]), model=model, path=captions
        )
    except GenieError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from error
    click.echo(f"{count} captions added to {captions}")
