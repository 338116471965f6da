import pandas as pd
from matplotlib.figure import Figure

from genie.figures import gains


def test_figure_has_a_panel_per_data_set_and_a_point_with_its_interval_per_gain(
    tmp_path, monkeypatch
):
    table = pd.DataFrame(
        [
            {
                "data_set": data_set, "shown": shown, "row": row,
                "gain": 0.1 * i, "gain_low": 0.1 * i - 0.02, "gain_high": 0.1 * i + 0.02,
            }
            for data_set in ("one", "two")
            for shown in ("1-shot", "5-shot")
            for i, row in enumerate(("A", "B", "C"))
        ]
    )  # fmt: skip
    drawn: list[Figure] = []
    monkeypatch.setattr(gains, "save_figure", lambda figure, path: drawn.append(figure))
    gains.gains_figure(table, path=tmp_path / "gains.png")
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == ["one", "two"]
    for panel in panels:
        assert [label.get_text() for label in panel.get_xticklabels()] == ["1-shot", "5-shot"]
        assert [bars.get_label() for bars in panel.containers] == ["A", "B", "C"]
        for i, bars in enumerate(panel.containers):
            points, _, (lines,) = bars
            assert points.get_ydata().round(6).tolist() == [10 * i, 10 * i]
            assert [segment[:, 1].round(6).tolist() for segment in lines.get_segments()] == [
                [10 * i - 2, 10 * i + 2]
            ] * 2
