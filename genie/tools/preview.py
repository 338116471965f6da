"""The preview of one image: what GeNIe makes of it at every noise level."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from genie.classify.backbone import ImageModel, embed
from genie.data.augmented_set import UNCLEAR
from genie.data.readers import open_square
from genie.data.wording import Wording
from genie.errors import GenieError
from genie.figures.contact_sheet import ContactRow
from genie.generate.renderer import Renderer
from genie.generate.request import Request, Wanted
from genie.generate.search import Landmarks, Trajectory

DRAWN = 8
"""Txt2Img images that stand for a target class without support images."""

Search = Callable[[Sequence[Wanted], Landmarks], Sequence[Trajectory]]


@dataclass(frozen=True)
class Target:
    """Images of the target class, whose mean embedding is Z_T, and where they come from."""

    images: Sequence[Image.Image]
    drawn: bool


@dataclass(frozen=True)
class Preview:
    """An image at all levels, and whether its target was drawn by the generator."""

    row: ContactRow
    shift_ratio: float
    target: Target


def read_source(path: Path, *, size: int | None) -> Image.Image:
    """Read an image as the pipeline does; raise GenieError if it cannot be read."""
    if not path.exists():
        raise GenieError(f"{path} does not exist; name an image file")
    image = open_square(path, size=size)
    if isinstance(image, str):
        raise GenieError(f"{path} cannot be read as an image ({image}); name another file")
    return image


def requests_for(
    source_id: str, name: str, target: str, *, wording: Wording, ratios: Sequence[float], seed: int
) -> tuple[Request, ...]:
    """Return the requests for one source at all ratios. `name` stands for the source's class."""
    return tuple(
        Request(source_id, name, target, wording.prompt, wording.negative, r, 0, seed, "")
        for r in ratios
    )


def drawn_target(like: Request, renderer: Renderer) -> Target:
    """Draw the target class from the prompt of a request alone (Txt2Img)."""
    requests = [
        replace(like, source_id=None, source_label=None, r=1.0, replicate=i) for i in range(DRAWN)
    ]
    renderer.ensure(requests, steps=renderer.steps)
    keys = [renderer.key(request, renderer.steps) for request in requests]
    return Target([renderer.picture(key) for key in keys], drawn=True)


def preview_of(
    requests: tuple[Request, ...],
    source: Image.Image,
    target: Target,
    *,
    renderer: Renderer,
    backbone: ImageModel,
    search: Search,
) -> Preview:
    """Render a source at all levels and choose one by `search`.

    Raise GenieError if the source and the mean of the target's images have the same embedding.
    """
    first = requests[0]
    z_source, *z_targets = embed([source, *target.images], model=backbone)
    marks = Landmarks(
        backbone,
        {str(first.source_id): z_source},
        {(0, first.target_label): np.mean(z_targets, 0)},
    )
    (found,) = search([Wanted(0, requests)], marks)
    levels = zip(requests, found.positions, map(renderer.picture, found.keys), strict=True)
    row = ContactRow(
        source_label=str(first.source_label),
        target_label=first.target_label,
        source=source,
        levels=[(request.r, float(d), image) for request, d, image in levels],
        chosen=int(found.chosen or 0),
        target=target.images[0],
    )
    return Preview(row, found.shift_ratio, target)


def preview_lines(preview: Preview) -> list[str]:
    """Return the summary for the terminal: a line per level, the choice and what Z_T is."""
    row, count = preview.row, len(preview.target.images)
    lines, before = ["     r  position     shift"], None
    for level, (r, position, _) in enumerate(row.levels):
        shift = "" if before is None else f"{position - before:+.2f}"
        mark = "  <- r*" if level == row.chosen else ""
        lines.append(f"{r:>6g}  {position:>8.2f}  {shift:>8}{mark}")
        before = position
    kind = "Txt2Img" if preview.target.drawn else "support"
    return [
        *lines,
        _clarity(preview.shift_ratio),
        f"Z_T is the mean of {count} {kind} images of {row.target_label}",
    ]


def _clarity(shift_ratio: float) -> str:
    if np.isnan(shift_ratio):
        return "the choice has nothing to compare with"
    clear = "unclear" if shift_ratio < UNCLEAR else "clear"
    return f"the choice is {clear}: the largest shift is {shift_ratio:.2f} times the second"
