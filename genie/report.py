"""Figures that a person looks at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
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


@dataclass(frozen=True)
class TrajectoryPanel:
    """One pair in a plane: its levels (M, 2) at `ratios` (M,), Z_S and Z_T (2,), the choice."""

    title: str
    source: np.ndarray
    target: np.ndarray
    levels: np.ndarray
    ratios: Sequence[float]
    chosen: int


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


def boundary_figure(levels: Sequence[tuple[str, np.ndarray, np.ndarray]], path: Path) -> None:
    """Densities of P(S|X_r) and P(T|X_r), a panel per level (paper, Figure 6).

    `levels` holds a title and the two arrays of probabilities in [0, 1].
    """
    figure = Figure(figsize=(2.4 * max(1, len(levels)), 2.4), dpi=110)
    panels = figure.subplots(1, max(1, len(levels)), sharey=True, squeeze=False)[0]
    bins = [i / 20 for i in range(21)]
    for axis, (title, p_source, p_target) in zip(panels, levels, strict=False):
        for values, name in ((p_source, "P(S|X)"), (p_target, "P(T|X)")):
            axis.hist(values, bins=bins, alpha=0.6, label=name, density=True)
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("probability", fontsize=7)
        axis.tick_params(labelsize=6)
    if levels:
        panels[0].legend(fontsize=7)
    _save(figure, path)


def trajectory_figure(rows: Sequence[TrajectoryPanel], path: Path) -> None:
    """Embeddings of some pairs on their first two principal components (paper, Figure 5)."""
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
    _save(figure, path)


def ratio_figure(
    chosen: Sequence[float], ratios: Sequence[float], curves: np.ndarray, path: Path
) -> None:
    """How often each ratio is chosen, and the positions d against r.

    `curves` (n, M) holds the positions of n pairs at the M `ratios`.
    """
    figure = Figure(figsize=(7, 2.8), dpi=110)
    left, right = figure.subplots(1, 2)
    counts = [sum(abs(c - r) < 1e-9 for c in chosen) for r in ratios]
    left.bar([f"{r:g}" for r in ratios], counts)
    left.set(xlabel="chosen noise ratio r*", ylabel="images")
    if len(curves):
        right.plot(ratios, curves.T, color="tab:blue", alpha=0.05, lw=0.7)
        right.plot(ratios, np.median(curves, axis=0), "o-", color="black", label="median")
        right.legend(fontsize=7)
    right.set(xlabel="noise ratio r", ylabel="position d (0 source, 1 target)")
    _save(figure, path)


def failure_sheet(
    pairs: Sequence[tuple[str, Image.Image | None, Image.Image]], path: Path, *, judged: int
) -> None:
    """Source above generated image, a column per (title, source, generated), of `judged` images."""
    columns = max(1, len(pairs))
    figure = Figure(figsize=(1.5 * columns, 3.4 if pairs else 1), dpi=110)
    if not pairs:
        text = f"all {judged} images are called by their label" if judged else "no image was judged"
        figure.text(0.5, 0.5, text, ha="center", va="center")
    else:
        grid = figure.subplots(2, columns, squeeze=False)
        for (title, source, generated), above, below in zip(pairs, *grid, strict=True):
            _picture(above, source, title)
            _picture(below, generated, "")
    _save(figure, path)


def result_figure(results: pd.DataFrame, *, reference: str, path: Path) -> None:
    """Gains over the baseline with 95% intervals, and label consistency, by setting and row.

    `results` has columns setting, row, gain, gain_low, gain_high and label_consistency, all of
    them shares of 1. The `reference` row is drawn in another colour.
    """
    settings = list(dict.fromkeys(results["setting"]))
    rows = max(sum(results["setting"] == setting) for setting in settings)
    figure = Figure(figsize=(3.4 * (len(settings) + 1), 0.27 * rows + 1.1), dpi=110)
    panels = figure.subplots(1, len(settings) + 1, sharey=True, squeeze=False)[0]
    for axis, setting in zip(panels, settings, strict=False):
        own = results[results["setting"] == setting].iloc[::-1]
        colours = ["tab:red" if row == reference else "tab:blue" for row in own["row"]]
        gains = 100 * own[["gain_low", "gain", "gain_high"]].to_numpy(float)
        axis.barh(own["row"], gains[:, 1], color=colours, alpha=0.7)
        reach = np.nan_to_num(np.abs(gains[:, [0, 2]] - gains[:, [1]]).T)
        axis.errorbar(gains[:, 1], own["row"], xerr=reach, fmt="none", ecolor="black", lw=0.8)
        axis.axvline(0, color="black", lw=0.6)
        axis.set_title(setting, fontsize=9)
        axis.set_xlabel("gain over the baseline, points", fontsize=8)
        axis.tick_params(labelsize=7)
        consistent = 100 * own["label_consistency"].to_numpy(float)
        panels[-1].plot(consistent, own["row"], "o", ms=4, label=setting)
    panels[-1].set_xlabel("label consistency, %", fontsize=8)
    panels[-1].tick_params(labelsize=7)
    panels[-1].legend(fontsize=7)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
