"""The preview of one image, which shows its edits at every noise level."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from genie.cli.places import require_writable, work_folder
from genie.core.errors import InvalidValueError, MissingFileError
from genie.core.tables import UNCLEAR, read_images
from genie.data.depth import common_depth, read_depth
from genie.data.images import Crop, decode_image
from genie.data.readers import open_square
from genie.figures.contact_sheet import ContactRow
from genie.figures.preview import preview_figure
from genie.pipeline import TXT2IMG_EXAMPLES, HardNegative, from_params
from genie.settings import Params, levels, prompts

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
"""Endings of what can be drawn."""


def read_source(
    path: Path, *, size: int | None, crop: Crop = "centre", depth: int | None = None
) -> Image.Image:
    """Read an image as the pipeline does.

    Raise MissingFileError if there is no file, and InvalidValueError if it cannot be read.
    """
    if not path.exists():
        raise MissingFileError("does not exist", argument=str(path), remedy="name an image file")
    try:
        depth = common_depth([path], path) if depth is None else depth
        return open_square(path, size=size, crop=crop, depth=depth)
    except InvalidValueError as error:
        raise InvalidValueError(
            f"cannot be read as an image ({error})", argument=str(path), remedy="name another file"
        ) from error


def preview_image(image: Path, target: str, params: Params, root: Path, out: Path) -> list[str]:
    """Edit an image at every noise level, save a figure to `out` and return the lines of a summary.

    `root` is the folder that contains data/ and .genie/. If there are support images of the target
    in data/, their mean embedding is the target's landmark. Raise MissingFileError or
    InvalidValueError if the image cannot be read or `out` cannot be written.
    """
    require_writable(out, PICTURES)
    depth = read_depth(root / "data/prepared/support")
    source = read_source(image, size=params.data.size, crop=params.data.crop, depth=depth)
    examples = support_of(target, root)
    made = from_params(params, work_folder(root))(
        source,
        target,
        examples=examples,
        levels=levels(params),
        prompts=prompts(params),
        seed=params.seed,
        unknown_classes=params.generator.unknown_classes,
    )
    pairs = zip(made.levels, made.positions, strict=True)
    row = ContactRow(
        source_label=image.name,
        target_label=target,
        source=source,
        levels=[(r, float(position), shown) for (r, shown), position in pairs],
        chosen=[r for r, _ in made.levels].index(made.r),
        target=examples[0] if examples else made.examples[0],
    )
    preview_figure(row, out, example="real" if examples else "Txt2Img")
    return [*summary(made, len(examples) or TXT2IMG_EXAMPLES), str(out)]


def support_of(target: str, root: Path) -> list[Image.Image]:
    """Return the support images of a class, or an empty list before the stage `prepare`."""
    folder = root / "data/prepared/support"
    if not (folder / "images.parquet").is_file():
        return []
    images = read_images(folder)
    return [decode_image(png) for png in images[images["label"] == target]["png"]]


def summary(made: HardNegative, examples: int) -> Sequence[str]:
    """Return one line per level, then how clear the choice is and how Z_T was computed."""
    lines, before = ["     r  position     shift"], None
    for (r, _), position in zip(made.levels, made.positions, strict=True):
        shift = "" if before is None else f"{position - before:+.2f}"
        mark = "  <- r*" if r == made.r else ""
        lines.append(f"{r:>6g}  {position:>8.2f}  {shift:>8}{mark}")
        before = position
    kind = "support" if made.landmark == "examples" else "Txt2Img"
    return [
        *lines,
        _clarity(made.shift_ratio),
        f"Z_T is the mean embedding of {examples} {kind} images of {made.target}",
    ]


def _clarity(shift_ratio: float) -> str:
    if np.isnan(shift_ratio):
        return "the choice cannot be rated: there are fewer than two shifts"
    clear = "unclear" if shift_ratio < UNCLEAR else "clear"
    return f"the choice is {clear}: the largest shift is {shift_ratio:.2f} times the second"
