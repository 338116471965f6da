import pandas as pd
import pytest

from genie.figures.forest_plot import forest_plot

ROWS = [
    ("clothes", "A - B", 0.03, 0.02, 0.05, "above"),
    ("photographs", "A - B", -0.02, -0.03, -0.01, "below"),
    ("clothes", "C - B", 0.01, -0.01, 0.02, "not clearly different from"),
]
COMPARISONS = pd.DataFrame(ROWS, columns=["panel", "label", "difference", "low", "high", "verdict"])


def test_each_comparison_is_a_point_with_its_interval_coloured_by_verdict(shown):
    figure = shown(lambda path: forest_plot(COMPARISONS, path=path))
    assert figure.titles == ["clothes", "photographs"]
    clothes, photographs = figure.figure.axes
    labels = [label.get_text() for label in clothes.get_yticklabels()]
    assert labels == ["C - B", "A - B"]  # from the bottom
    grey, _, green, point, _ = clothes.lines
    assert (grey.get_color(), green.get_color()) == ("tab:gray", "tab:green")
    assert green.get_xdata() == pytest.approx([2, 5])
    assert (*point.get_xdata(), *point.get_ydata()) == pytest.approx((3, 1))
    assert photographs.lines[0].get_color() == "tab:red"
