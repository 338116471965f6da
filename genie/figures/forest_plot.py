"""Forest plot: differences of two rows with their intervals, coloured by verdict."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from genie.figures.canvas import save_figure

COLOURS = {"above": "tab:green", "below": "tab:red"}
"""Of the verdicts on which rows differ clearly; any other verdict is grey."""


def forest_plot(comparisons: pd.DataFrame, *, path: Path) -> None:
    """Plot the difference of each comparison with its 95% interval, a panel per value of `panel`.

    `comparisons` has the columns panel, label, difference, low, high and verdict, with differences
    as fractions, not percentages. Panels and comparisons keep their order, the first one on top.
    """
    panels = list(comparisons.groupby("panel", sort=False))
    most = max(len(own) for _, own in panels)
    figure = Figure(figsize=(6 * len(panels), 0.2 * most + 1), dpi=110)
    axes = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for axis, (title, own) in zip(axes, panels, strict=True):
        for place, row in enumerate(own.iloc[::-1].to_dict("records")):
            colour = COLOURS.get(row["verdict"], "tab:gray")
            axis.plot([100 * row["low"], 100 * row["high"]], [place, place], color=colour)
            axis.plot([100 * row["difference"]], [place], "o", ms=4, color=colour)
        axis.set_yticks(range(len(own)), own["label"].iloc[::-1])
        axis.axvline(0, color="black", lw=0.6)
        axis.set_ylim(-1, most)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("difference, points", fontsize=8)
        axis.tick_params(labelsize=7)
    save_figure(figure, path)
