import numpy as np
import pandas as pd
import pytest

from genie.figures.boundary import BINS, boundary_figure


def table(ratios: tuple[float, ...]) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = [
        {"r": r, "p_source": random.random(), "p_target": random.random(), "chosen": i % 3 == 0}
        for r in ratios
        for i in range(30)
    ]
    return pd.DataFrame(rows, columns=["r", "p_source", "p_target", "chosen"])


def heights(axis) -> np.ndarray:
    """(2, bins): of the source's and of the target's densities."""
    return np.array([bar.get_height() for bar in axis.patches]).reshape(2, len(BINS) - 1)


def test_panel_per_ratio_and_one_of_the_chosen_images(shown):
    figure = shown(lambda path: boundary_figure(table((0.5, 0.7)), path))
    assert figure.titles == ["r = 0.5", "r = 0.7", "GeNIe-Ada"]
    legend = figure.figure.axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["P(S|X)", "P(T|X)"]


def test_panels_show_the_densities_of_both_probabilities(shown):
    rows = table((0.5, 0.7))
    figure = shown(lambda path: boundary_figure(rows, path)).figure
    groups = [rows[rows["r"] == 0.5], rows[rows["r"] == 0.7], rows[rows["chosen"]]]
    for axis, own in zip(figure.axes, groups, strict=True):
        for found, column in zip(heights(axis), ("p_source", "p_target"), strict=True):
            expected, _ = np.histogram(own[column], bins=20, range=(0, 1), density=True)
            assert found == pytest.approx(expected)


def test_one_ratio_has_no_choice_to_show(shown):
    assert shown(lambda path: boundary_figure(table((0.7,)), path)).titles == ["r = 0.7"]


def test_without_images_the_panel_is_empty(shown):
    figure = shown(lambda path: boundary_figure(table(()), path)).figure
    (axis,) = figure.axes
    assert not axis.patches
    assert axis.get_legend() is None
