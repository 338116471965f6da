"""Figure of a protocol's results: gains with their intervals, and label consistency."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from genie.figures.canvas import save_figure


def result_figure(results: pd.DataFrame, *, reference: str, path: Path) -> None:
    """Plot gains over the baseline with 95% intervals, and label consistency, by setting and row.

    `results` has the columns setting, row, gain, gain_low, gain_high and label_consistency, with
    values as fractions, not percentages. The `reference` row is drawn in another colour.
    """
    settings = list(dict.fromkeys(results["setting"]))
    rows = max(sum(results["setting"] == setting) for setting in settings)
    figure = Figure(figsize=(3.4 * (len(settings) + 1), 0.27 * rows + 1.1), dpi=110)
    panels = figure.subplots(1, len(settings) + 1, sharey=True, squeeze=False)[0]
    for axis, setting in zip(panels, settings, strict=False):
        subset = results[results["setting"] == setting].iloc[::-1]
        colours = ["tab:red" if row == reference else "tab:blue" for row in subset["row"]]
        gains = 100 * subset[["gain_low", "gain", "gain_high"]].to_numpy(float)
        axis.barh(subset["row"], gains[:, 1], color=colours, alpha=0.7)
        reach = np.nan_to_num(np.abs(gains[:, [0, 2]] - gains[:, [1]]).T)
        axis.errorbar(gains[:, 1], subset["row"], xerr=reach, fmt="none", ecolor="black", lw=0.8)
        axis.axvline(0, color="black", lw=0.6)
        axis.set_title(setting, fontsize=9)
        axis.set_xlabel("gain over the baseline, points", fontsize=8)
        axis.tick_params(labelsize=7)
        consistent = 100 * subset["label_consistency"].to_numpy(float)
        panels[-1].plot(consistent, subset["row"], "o", ms=4, label=setting)
    panels[-1].set_xlabel("label consistency, %", fontsize=8)
    panels[-1].tick_params(labelsize=7)
    panels[-1].legend(fontsize=7)
    save_figure(figure, path)
