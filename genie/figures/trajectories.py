"""Figures of the path of embeddings from source to target as r grows, and of chosen ratios."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from genie.classify.examples import Examples
from genie.figures.canvas import save_figure
from genie.measure.analysis import between_classes, plane, spread_out

PANELS = 6


@dataclass(frozen=True)
class TrajectoryPanel:
    """A trajectory projected onto a plane: levels (M, 2) at `ratios` (M,), and Z_S and Z_T (2,).

    `chosen` is the index of the chosen level.
    """

    title: str
    source: np.ndarray
    target: np.ndarray
    levels: np.ndarray
    ratios: Sequence[float]
    chosen: int


def trajectory_panels(
    trajectories: pd.DataFrame,
    embeddings: Mapping[str, np.ndarray],
    support: Mapping[int, Examples],
) -> list[TrajectoryPanel]:
    """Select trajectories and project each onto the principal plane of its embeddings.

    `embeddings` maps image ids to Z_S, and `support` maps tasks to support images.
    """
    return [
        _panel(levels, embeddings, support[int(levels["task"].iloc[0])])
        for levels in spread_out(trajectories, PANELS)
    ]


def _panel(
    levels: pd.DataFrame, embeddings: Mapping[str, np.ndarray], support: Examples
) -> TrajectoryPanel:
    first = levels.iloc[0]
    of_target = np.array(support.labels) == first["target_label"]
    z_target = support.embeddings[of_target].mean(0)
    flat = plane(np.stack([embeddings[first["source_id"]], z_target, *levels["embedding"]]))
    return TrajectoryPanel(
        title=f"{first['source_label']} → {first['target_label']}",
        source=flat[0],
        target=flat[1],
        levels=flat[2:],
        ratios=list(levels["r"]),
        chosen=int(levels["chosen"].to_numpy().argmax()),
    )


def trajectory_figure(rows: Sequence[TrajectoryPanel], path: Path) -> None:
    """Plot trajectories on their first two principal components (paper, Figure 5)."""
    figure = Figure(figsize=(2.6 * max(1, len(rows)), 2.6), dpi=110)
    panels = figure.subplots(1, max(1, len(rows)), squeeze=False)[0]
    for axis, row in zip(panels, rows, strict=False):
        axis.plot(*row.levels.T, "-", color="0.7", lw=1)
        axis.scatter(*row.levels.T, c=row.ratios, cmap="viridis", s=18, zorder=2)
        for point, r in zip(row.levels, row.ratios, strict=True):
            axis.annotate(f"{r:g}", point, fontsize=6)
        axis.scatter(*row.levels[row.chosen], s=90, facecolors="none", edgecolors="tab:red")
        axis.plot(*row.source, "b*", ms=10, label="Z_S")
        axis.plot(*row.target, "rX", ms=8, label="Z_T")
        axis.set_title(row.title, fontsize=7)
        axis.set_xticks([])
        axis.set_yticks([])
    if rows:
        panels[0].legend(fontsize=7)
    save_figure(figure, path)


def ratio_figure(trajectories: pd.DataFrame, path: Path) -> None:
    """Plot how often each ratio is chosen, and plot the positions d against r."""
    edited = trajectories[trajectories["position"].notna()]
    ratios = sorted(trajectories["r"].unique())
    chosen = between_classes(trajectories).loc[lambda rows: rows["chosen"], "r"]
    curves = spread_out(trajectories.drop(columns="embedding"), len(edited))
    figure = Figure(figsize=(7, 2.8), dpi=110)
    left, right = figure.subplots(1, 2)
    counts = [sum(abs(chosen - r) < 1e-9) for r in ratios]
    left.bar([f"{r:g}" for r in ratios], counts)
    left.set(xlabel="chosen noise ratio r*", ylabel="images")
    if curves:
        drawn = pd.concat(curves)
        points = drawn[["r", "position"]].to_numpy(float)
        lines = np.split(points, np.cumsum([len(rows) for rows in curves])[:-1])
        many = LineCollection(lines, colors="tab:blue", alpha=0.05, linewidths=0.7)
        many.set(capstyle="projecting", joinstyle="round")  # as `plot`, which is slow for many
        right.add_collection(many)
        right.autoscale_view()
        median = drawn.groupby("r")["position"].median()
        right.plot(median.index, median, "o-", color="black", label="median")
        right.legend(fontsize=7, loc="upper left")
    right.set(xlabel="noise ratio r", ylabel="position d (0 source, 1 target)")
    save_figure(figure, path)
