import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from genie.figures.results import result_figure

ROWS = [
    ("1 shot", "genie", 0.03, 0.02, 0.05, 0.9),
    ("1 shot", "weak", 0.01, None, None, None),
    ("5 shots", "genie", 0.02, 0.01, 0.03, 0.8),
    ("5 shots", "weak", -0.01, -0.02, 0.0, None),
]
RESULTS = pd.DataFrame(
    ROWS, columns=["setting", "row", "gain", "gain_low", "gain_high", "label_consistency"]
).astype({"gain_low": float, "gain_high": float, "label_consistency": float})


def drawn(shown, reference: str = "weak"):
    return shown(lambda path: result_figure(RESULTS, reference=reference, path=path))


def test_panel_per_setting_shows_gains_in_points_the_first_row_on_top(shown):
    figure = drawn(shown)
    assert figure.titles == ["1 shot", "5 shots", ""]
    for axis, gains in zip(figure.figure.axes, ([1, 3], [-1, 2]), strict=False):
        assert [bar.get_width() for bar in axis.patches] == pytest.approx(gains)
        assert [bar.get_y() + bar.get_height() / 2 for bar in axis.patches] == [0, 1]
    labels = figure.figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["weak", "genie"]


def test_intervals_reach_from_low_to_high_and_one_task_has_none(shown):
    figure = drawn(shown).figure
    one, five = ([s[:, 0] for s in axis.collections[0].get_segments()] for axis in figure.axes[:2])
    assert [list(ends) for ends in one] == [pytest.approx([1, 1]), pytest.approx([2, 5])]
    assert [list(ends) for ends in five] == [pytest.approx([-2, 0]), pytest.approx([1, 3])]


def test_reference_row_has_a_colour_of_its_own(shown):
    for reference, colours in (
        ("weak", ["tab:red", "tab:blue"]),
        ("genie", ["tab:blue", "tab:red"]),
    ):
        axis = drawn(shown, reference).figure.axes[0]
        found = [bar.get_facecolor()[:3] for bar in axis.patches]
        assert found == [to_rgba(colour)[:3] for colour in colours]


def test_label_consistency_is_shown_in_percent_by_setting(shown):
    last = drawn(shown).figure.axes[-1]
    lines = {line.get_label(): line.get_xdata()[1] for line in last.lines}
    assert lines == {"1 shot": pytest.approx(90), "5 shots": pytest.approx(80)}
    names = [text.get_text() for text in last.get_legend().get_texts()]
    assert names == ["1 shot", "5 shots"]
