"""Figure in docs/results.md: gains over the baseline by data set, setting and method."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from genie.figures.canvas import save_figure


def gains_figure(gains: pd.DataFrame, *, path: Path) -> None:
    """Plot each gain in points of accuracy with its 95% interval, in one panel per data set.

    `gains` has the columns data_set, shown (the setting), row (the method), and gain, gain_low and
    gain_high in [-1, 1]. In each panel, settings are side by side, and each method has its own
    colour.
    """
    panels = list(gains.groupby("data_set", sort=False))
    figure = Figure(figsize=(5.2 * len(panels), 3.6), dpi=110)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, own) in zip(axes, panels, strict=True):
        settings = list(dict.fromkeys(own["shown"]))
        methods = list(own.groupby("row", sort=False))
        for number, (method, rows) in enumerate(methods):
            low, gain, high = (
                100 * rows[name].to_numpy(float) for name in ("gain_low", "gain", "gain_high")
            )
            place = np.arange(len(settings)) + 0.14 * (number - (len(methods) - 1) / 2)
            reach = (gain - low, high - gain)
            axis.errorbar(place, gain, yerr=reach, fmt="o", ms=4, elinewidth=1, label=method)
        axis.axhline(0, color="black", lw=0.8)
        axis.set_xticks(range(len(settings)), settings)
        axis.set_title(title, fontsize=10)
    axes[0].set_ylabel("gain over weak copies, points")
    axes[-1].legend(fontsize=8)
    save_figure(figure, path)
