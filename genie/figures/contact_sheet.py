"""The contact sheet: sources, their noise levels with the choice marked, and real targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from genie.data.images import decode_image
from genie.figures.canvas import picture, save_figure
from genie.measure.analysis import single_trajectories


@dataclass(frozen=True)
class ContactRow:
    """A row of the contact sheet: a source, its levels in ascending r, and a real target image.

    `chosen` is the index of the chosen level.
    """

    source_label: str
    target_label: str
    source: Image.Image | None
    levels: Sequence[tuple[float, float, Image.Image]]  # r, position, image
    chosen: int
    target: Image.Image


def contact_rows(
    trajectories: pd.DataFrame,
    images: pd.DataFrame,
    support: pd.DataFrame,
    *,
    picture_of: Callable[[str], Image.Image],
) -> list[ContactRow]:
    """Select one trajectory with a chosen level for each target class of the first task.

    `trajectories` has the columns of TRAJECTORIES, and `images` has the columns of IMAGES.
    `support` contains the support rows of the tasks. `picture_of` returns the image of a level by
    key.
    """
    if trajectories.empty:
        return []
    png = dict(zip(images["image_id"], images["png"], strict=True))
    task = trajectories["task"].min()
    first = trajectories[trajectories["task"] == task]
    examples = support[support["task"] == task].drop_duplicates("label")
    example = dict(zip(examples["label"], examples["image_id"], strict=True))
    rows = []
    for number, (target, group) in enumerate(first.groupby("target_label")):
        kept = [levels for levels in single_trajectories(group) if levels["chosen"].any()]
        if kept:  # another index per target, so that sources differ
            levels = kept[number % len(kept)]
            rows.append(_row(levels, png, decode_image(png[example[target]]), picture_of))
    return rows


def _row(
    levels: pd.DataFrame,
    png: Mapping[str, bytes],
    target: Image.Image,
    picture_of: Callable[[str], Image.Image],
) -> ContactRow:
    first = levels.iloc[0]
    source = png.get(first["source_id"])
    pictures = zip(levels["r"], levels["position"], map(picture_of, levels["key"]), strict=True)
    return ContactRow(
        source_label=str(first["source_label"] or ""),
        target_label=str(first["target_label"]),
        source=None if source is None else decode_image(source),
        levels=list(pictures),
        chosen=int(levels["chosen"].to_numpy().argmax()),
        target=target,
    )


def contact_sheet(rows: Sequence[ContactRow], path: Path) -> None:
    """Write a PNG with one row per trajectory: source, noise levels with positions, real target.

    The chosen level is framed. The file is reproducible byte for byte. If there are no rows, it
    shows the text "no images were generated".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not rows:
        figure = Figure(figsize=(5, 1), dpi=110)
        figure.text(0.5, 0.5, "no images were generated", ha="center", va="center")
        figure.savefig(path, metadata={"Software": None})
        return
    levels = max(len(row.levels) for row in rows)
    figure = Figure(figsize=(1.25 * (levels + 2), 1.55 * len(rows) + 0.2), dpi=110)
    grid = figure.subplots(len(rows), levels + 2, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        picture(axes[0], row.source, f"source\n{row.source_label}" if row.source else "")
        for i, (r, position, image) in enumerate(row.levels):
            place = "" if position != position else f"\nd = {position:.2f}"
            picture(axes[i + 1], image, f"r = {r:g}{place}", framed=i == row.chosen)
        for axis in axes[len(row.levels) + 1 : -1]:
            axis.set_axis_off()
        picture(axes[-1], row.target, f"target\n{row.target_label}")
    save_figure(figure, path, pad=0.4)
