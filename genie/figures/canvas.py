"""Helpers for figures: images with titles, and reproducible PNG and SVG output."""

import io
import warnings
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from genie.figures.fonts import use_fonts_for_all_texts


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


def save_figure(figure: Figure, path: Path, *, pad: float = 1.08) -> None:
    """Write a figure; PNG bytes are reproducible on machines with the same fonts.

    `pad` is the padding around the layout, in font sizes.
    """
    use_fonts_for_all_texts(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # already logged
        figure.tight_layout(pad=pad)
        png = path.suffix.lower() == ".png"
        figure.savefig(path, metadata={"Software": None} if png else None)


def svg(figure: Figure) -> str:
    """Return a figure as reproducible SVG on a transparent background.

    Text is not converted to outlines, so it is shown in the viewer's fonts.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": "genie", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return buffer.getvalue()
