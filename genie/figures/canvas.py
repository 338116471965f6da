"""Helpers for figures: images with titles, and PNG files with reproducible bytes."""

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image


def picture(axis, image: Image.Image | None, title: str, *, framed: bool = False) -> None:  # type: ignore[no-untyped-def]
    """Show an image with a title on an axis, with a red frame if `framed`."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=7, color="tab:red" if framed else "black")
    for spine in axis.spines.values():
        spine.set_visible(framed)
        spine.set_color("tab:red")
        spine.set_linewidth(3)
    if image is not None:
        axis.imshow(image, interpolation="nearest")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, with the same bytes every time."""
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
