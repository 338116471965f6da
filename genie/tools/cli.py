"""The command line `genie`. This is the only module of the library that prints."""

import json
import os
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from genie.errors import GenieError, one_line
from genie.generate.captioning import write_captions
from genie.tables import read_images
from genie.tools.convert import convert_resnet
from genie.tools.fetch import fetch_dataset, fetch_model
from genie.tools.new import new_project
from genie.tools.reproduction import TOLERANCE, differences
from genie.tools.summary import seconds_by_stage, summary_lines

FILE = click.Path(path_type=Path)


class _Commands(click.Group):
    """A group whose commands report a GenieError in click's form and exit with code 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except GenieError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands)
def main() -> None:
    """Tools around the GeNIe pipeline; `dvc repro` runs the pipeline itself."""


@main.command()
@click.argument("repo_id", metavar="ID")
@click.argument("folder", type=FILE)
@click.option("--revision", default="main", show_default=True, help="branch, tag or commit")
@click.option("--kind", type=click.Choice(["model", "dataset"]), default="model", show_default=True)
@click.option("--config", help="configuration of the data set, if it has several")
def fetch(repo_id: str, folder: Path, revision: str, kind: str, config: str | None) -> None:
    """Download the model or data set ID from the Hugging Face hub to FOLDER.

    Weights are downloaded as safetensors only, and FOLDER records the commit. A gated model needs a
    token in the environment (HF_TOKEN). A data set may also be a local folder.
    """
    endpoint = os.environ.get("HF_ENDPOINT")
    if kind == "model":
        commit: str | None = fetch_model(repo_id, folder, revision=revision, endpoint=endpoint)
    else:
        commit = fetch_dataset(repo_id, folder, revision=revision, config=config, endpoint=endpoint)
    click.echo(f"{kind} {repo_id} ({commit or 'local'}) is in {folder}")


@main.command()
@click.argument("folder", type=FILE)
@click.option("--data", "images", type=FILE, help="image folder or Parquet file, which is copied")
def new(folder: Path, images: Path | None) -> None:
    """Write a project for your own images to FOLDER, with its pipeline and CI workflows.

    FOLDER must be new or empty. It becomes a git and DVC repository, unless it is inside one.
    """
    classes = new_project(folder, images, watch=lambda files: tqdm(files, "copy", unit="file"))
    if images:
        click.echo(f"{folder} is a project with {len(classes)} classes; run `dvc repro` there")
    else:
        click.echo(
            f"{folder} is a project without images; put one sub-folder per class into "
            f"{folder}/photos, then run `dvc add photos` and `dvc repro` there"
        )
    click.echo(
        "it starts with `method: strong`, because the embedded generator knows only the classes of "
        f"Fashion-MNIST; {folder}/README.md says how to bring one that knows yours"
    )


@main.command("convert-resnet")
@click.argument("checkpoint", type=FILE)
@click.argument("folder", type=FILE)
@click.option(
    "--size", default=224, show_default=True, help="pixels per side of the training images"
)
def convert(checkpoint: Path, folder: Path, size: int) -> None:
    """Convert CHECKPOINT, a ResNet with torchvision's names such as UniSiam's, to FOLDER.

    FOLDER can then be used as classifier.backbone.
    """
    config = convert_resnet(checkpoint, folder, size=size)
    click.echo(f"a {config.layer_type} ResNet with depths {config.depths} is in {folder}")


@main.command()
@click.argument("model", type=FILE)
@click.argument("images", type=FILE)
@click.argument("captions", type=FILE)
def caption(model: Path, images: Path, captions: Path) -> None:
    """Caption IMAGES with MODEL and write CAPTIONS, a CSV file that you may edit.

    MODEL is the folder of an image-to-text model such as BLIP. IMAGES is data/prepared/support.
    Existing captions are kept.
    """
    count = write_captions(read_images(images), model=model, path=captions)
    click.echo(f"{count} captions added to {captions}")


@main.command()
@click.option("--root", type=FILE, default=".", show_default=True)
def summary(root: Path) -> None:
    """Show the results of the pipeline.

    Seconds are shown for the stages that have run on this machine.
    """
    found = _metrics(root / "metrics")
    for name, value in summary_lines(found, seconds_by_stage(root)):
        click.echo(f"  {name:<28}{value}")


@main.command()
@click.argument("committed", type=FILE)
@click.argument("made", type=FILE)
def verify(committed: Path, made: Path) -> None:
    """Check that the metrics in MADE agree with those in COMMITTED; exit with code 1 if not."""
    if wrong := differences(_metrics(committed), _metrics(made)):
        raise GenieError("metrics do not reproduce; " + "; ".join(wrong))
    click.echo(f"metrics reproduce: all values of {made}/evaluate.json within {TOLERANCE}")


def _metrics(folder: Path) -> dict[str, Any]:
    """Read `evaluate.json` in a folder; raise GenieError if it is missing or malformed."""
    path = folder / "evaluate.json"
    if not path.is_file():
        raise GenieError(f"{path} does not exist; run `dvc repro` to make it")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GenieError(f"{path} is not valid JSON: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise GenieError(f"{path} must hold values by name; run `dvc repro` to make it")
    return values
