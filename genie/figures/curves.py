"""Curves for the report, as SVG: positions, the baseline's predictions and chosen ratios by r."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from genie.figures.canvas import svg
from genie.measure.analysis import between_classes


@dataclass(frozen=True)
class Curves:
    """Three SVG figures, and a table of their values with one row per noise ratio.

    The columns are r, images, `low`, `median` and `high` (quartiles of the position),
    `predicted_target` (share in [0, 1]) and `chosen` (number of images with this chosen ratio).
    """

    table: pd.DataFrame
    position: str
    predicted_target: str
    chosen: str


def curves(trajectories: pd.DataFrame) -> Curves | None:
    """Draw curves of the images with a source of another class; return None below two levels.

    `trajectories` has the columns of TRAJECTORIES.
    """
    table = by_noise_ratio(trajectories)
    if len(table) < 2:
        return None
    return Curves(table, _position(table), _predicted_target(table), _chosen(table))


def by_noise_ratio(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `Curves`, in ascending order of the ratios."""
    grouped = between_classes(trajectories).groupby("r")
    quartiles = grouped["position"].quantile([0.25, 0.5, 0.75]).unstack()
    return pd.DataFrame(
        {
            "images": grouped.size(),
            "low": quartiles.get(0.25),
            "median": quartiles.get(0.5),
            "high": quartiles.get(0.75),
            "predicted_target": grouped["predicted_target"].mean().astype(float),
            "chosen": grouped["chosen"].sum().astype(int),
        }
    ).reset_index()


def _position(table: pd.DataFrame) -> str:
    figure, axis = _panel("position d")
    axis.fill_between(table["r"], table["low"], table["high"], alpha=0.25, lw=0)
    axis.plot(table["r"], table["median"], "o-")
    for end, name in ((0, "source"), (1, "target")):
        axis.axhline(end, color="0.5", lw=0.8, ls="--")
        axis.annotate(name, (table["r"].iloc[0], end), fontsize=9, color="0.35", va="bottom")
    axis.margins(y=0.12)
    return svg(figure)


def _predicted_target(table: pd.DataFrame) -> str:
    figure, axis = _panel("share predicted as target")
    axis.plot(table["r"], table["predicted_target"], "o-", color="tab:green")
    axis.set_ylim(-0.03, 1.03)
    return svg(figure)


def _chosen(table: pd.DataFrame) -> str:
    figure, axis = _panel("images with this r*")
    axis.bar([f"{r:g}" for r in table["r"]], table["chosen"], color="tab:red")
    return svg(figure)


def _panel(name: str):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(4, 2.8), layout="constrained")
    axis = figure.subplots()
    axis.set(xlabel="noise ratio r", ylabel=name)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis
