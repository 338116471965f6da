"""Figure of one image at all noise levels, with a strip of images above a curve of positions."""

from pathlib import Path

from matplotlib.figure import Figure

from genie.figures.canvas import picture, save_figure
from genie.figures.contact_sheet import ContactRow


def preview_figure(row: ContactRow, path: Path, *, example: str) -> None:
    """Draw a trajectory to a file: the source, levels with r and position, a target `example`.

    The chosen level is framed in the strip and marked on the curve.
    """
    count = len(row.levels) + 2
    figure = Figure(figsize=(1.35 * count, 4.4), dpi=110)
    grid = figure.add_gridspec(2, count, height_ratios=(1.0, 1.5))
    strip = [figure.add_subplot(grid[0, i]) for i in range(count)]
    picture(strip[0], row.source, "")
    picture(strip[-1], row.target, "")
    strip[0].set_xlabel(f"source\n{row.source_label}", fontsize=8)
    strip[-1].set_xlabel(f"{example}\n{row.target_label}", fontsize=8)
    for level, (r, position, image) in enumerate(row.levels):
        axis, kept = strip[level + 1], level == row.chosen
        picture(axis, image, "", framed=kept)
        colour = "tab:red" if kept else "black"
        name = f"r* = {r:g}" if kept else f"r = {r:g}"
        axis.set_xlabel(f"{name}\nd = {position:.2f}", fontsize=8, color=colour)
    _curve(figure.add_subplot(grid[1, :]), row)
    save_figure(figure, path)


def _curve(axis, row: ContactRow) -> None:  # type: ignore[no-untyped-def]
    ratios = [r for r, _, _ in row.levels]
    positions = [position for _, position, _ in row.levels]
    axis.plot(ratios, positions, "o-")
    axis.plot(ratios[row.chosen], positions[row.chosen], "o", ms=13, mfc="none", mec="tab:red")
    for end, name in ((0, "source"), (1, "target")):
        axis.axhline(end, color="0.6", lw=0.8, ls="--")
        axis.annotate(name, (ratios[0], end), fontsize=7, color="0.4", va="bottom")
    axis.set_xlabel("noise ratio r", fontsize=8)
    axis.set_ylabel("position d", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.margins(y=0.15)
