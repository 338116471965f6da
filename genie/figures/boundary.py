"""Figure of the distance between generated images and the decision boundary."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from genie.figures.canvas import save_figure
from genie.measure.analysis import by_ratio

BINS = [i / 20 for i in range(21)]


def boundary_figure(table: pd.DataFrame, path: Path) -> None:
    """Plot the densities of P(S|X_r) and P(T|X_r), with one panel per level (paper, Figure 6).

    `table` is the output of `measure.analysis.boundary_probabilities`.
    """
    levels = by_ratio(table)
    figure = Figure(figsize=(2.4 * max(1, len(levels)), 2.4), dpi=110)
    panels = figure.subplots(1, max(1, len(levels)), sharey=True, squeeze=False)[0]
    for axis, (title, rows) in zip(panels, levels, strict=False):
        for column, name in (("p_source", "P(S|X)"), ("p_target", "P(T|X)")):
            axis.hist(rows[column].to_numpy(), bins=BINS, alpha=0.6, label=name, density=True)
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("probability", fontsize=7)
        axis.tick_params(labelsize=6)
    if levels:
        panels[0].legend(fontsize=7)
    save_figure(figure, path)
