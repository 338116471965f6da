"""The command `genie`: the library's commands, and those that take the pipeline's parameters."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from genie.tools import cli
from genie.tools.cli import FILE

from .shared.command import show_log
from .shared.params import Params, read_params

if TYPE_CHECKING:
    from genie.tools.preview import Target


@click.group(cls=cli.Commands, commands=dict(cli.main.commands), help=cli.main.help)
def main() -> None:
    pass


@main.command()
@click.argument("image", type=FILE)
@click.argument("target")
@click.option("--params", "params_file", type=FILE, default="params.yaml", show_default=True)
@click.option("--generator", type=FILE, help="diffusers folder instead of generator.model")
@click.option(
    "--root", type=FILE, default=".", show_default=True, help="folder of data/ and .genie/"
)
@click.option("--out", type=FILE, default="preview.png", show_default=True)
def preview(
    image: Path, target: str, params_file: Path, generator: Path | None, root: Path, out: Path
) -> None:
    """Show what IMAGE becomes under the prompt of the class TARGET, at every noise level.

    Writes the levels with their positions between source (0) and target (1), and marks the level
    that GeNIe-Ada chooses. The position of the target is that of the class's support images, once
    `dvc repro` has drawn some, else that of eight images that the generator makes from the prompt.
    """
    from .shared.classes import check_classes  # slow to import, as torch is

    params = _with_generator(read_params(params_file), generator)
    check_classes(params, lambda: [target])
    _preview(image, target, params, root, out)


def _preview(image: Path, target: str, params: Params, root: Path, out: Path) -> None:
    """Draw the preview of an image; its imports take seconds, so an unknown class comes first."""
    import pandas as pd

    from genie.classify.backbone import load_backbone
    from genie.data.images import encode_png, image_id
    from genie.data.wording import read_names, wording_in_turn
    from genie.figures.preview import preview_figure
    from genie.generate.noise import levels
    from genie.tools.preview import (
        drawn_target,
        preview_lines,
        preview_of,
        read_source,
        requests_for,
    )

    from .shared.engine import Engine
    from .shared.generation import renderer_of, search
    from .shared.places import features_file

    show_log()
    source = read_source(image, size=params.data.size)
    name = image_id(source)
    rows = pd.DataFrame([{"image_id": name, "png": encode_png(source)}])
    renderer = renderer_of(
        *(params, root, rows), on_image=lambda guided_steps: None, engine=Engine()
    )
    noise, prompt = params.noise, params.prompt
    wording = wording_in_turn(
        *(target, None, 0),
        templates=prompt.templates,
        superclass=prompt.superclass,
        negative=prompt.negative,
        names=read_names(prompt.names),
    )
    requests = requests_for(
        *(name, image.name, target),
        wording=wording,
        ratios=levels(noise.low, noise.high, noise.M),
        seed=params.seed,
    )
    found = preview_of(
        *(requests, source, _support_of(target, root) or drawn_target(requests[0], renderer)),
        renderer=renderer,
        backbone=load_backbone(params.classifier.backbone, cache=features_file(root)),
        search=lambda wanted, marks: search(params, wanted, renderer, marks)[0],
    )
    preview_figure(found.row, out, example="Txt2Img" if found.target.drawn else "real")
    for line in [*preview_lines(found), str(out)]:
        click.echo(line)


def _with_generator(params: Params, folder: Path | None) -> Params:
    """Return the parameters with another generator, if there is one."""
    if folder is None:
        return params
    generator = params.generator.model_copy(update={"model": folder})
    return params.model_copy(update={"generator": generator})


def _support_of(target: str, root: Path) -> "Target | None":
    """Return the class's support images, or None if it has none or none were drawn yet."""
    from genie.data.images import decode_image
    from genie.tables import read_images
    from genie.tools.preview import Target

    folder = root / "data/prepared/support"
    if not (folder / "images.parquet").is_file():
        return None
    images = read_images(folder)
    own = images[images["label"] == target]
    return Target([decode_image(png) for png in own["png"]], drawn=False) if len(own) else None
