"""Figures that a person looks at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image


@dataclass(frozen=True)
class ContactRow:
    """One pair on the contact sheet: source, its levels in ascending r, the choice, a target."""

    source_label: str
    target_label: str
    source: Image.Image | None
    levels: Sequence[tuple[float, float, Image.Image]]  # r, position, image
    chosen: int
    target: Image.Image


def contact_sheet(rows: Sequence[ContactRow], path: Path) -> None:
    """Write a PNG: a row per pair with source, noise levels and positions, and a real target.

    The chosen level is framed. The same rows give the same bytes; without rows the sheet says so.
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
        _picture(axes[0], row.source, f"source\n{row.source_label}" if row.source else "")
        for i, (r, position, image) in enumerate(row.levels):
            place = "" if position != position else f"\nd = {position:.2f}"
            _picture(axes[i + 1], image, f"r = {r:g}{place}", framed=i == row.chosen)
        for axis in axes[len(row.levels) + 1 : -1]:
            axis.set_axis_off()
        _picture(axes[-1], row.target, f"target\n{row.target_label}")
    figure.tight_layout(pad=0.4)
    figure.savefig(path, metadata={"Software": None})


def _picture(axis, image: Image.Image | None, title: str, *, framed: bool = False) -> None:  # type: ignore[no-untyped-def]
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=7, color="tab:red" if framed else "black")
    for spine in axis.spines.values():
        spine.set_visible(framed)
        spine.set_color("tab:red")
        spine.set_linewidth(3)
    if image is not None:
        axis.imshow(image, interpolation="nearest")
