import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist

from genie.classify.examples import Examples
from genie.figures.trajectories import (
    PANELS,
    TrajectoryPanel,
    ratio_figure,
    trajectory_figure,
    trajectory_panels,
)

RATIOS = (0.5, 0.7, 0.9)


def trajectories(pairs: int = 2, *, chosen: int = 1) -> pd.DataFrame:
    """Trajectories of three levels on a line, which a plane shows without loss."""
    return pd.DataFrame(
        [
            {
                "task": 0,
                "target_label": "bag",
                "source_label": "coat",
                "source_id": f"image {pair}",
                "replicate": 0,
                "level": level,
                "r": r,
                "position": 0.1 * pair + 0.3 * level,
                "chosen": level == chosen,
                "embedding": np.array([0.3 * level, 0.1 * pair, 0, 0], np.float32),
            }
            for pair in range(pairs)
            for level, r in enumerate(RATIOS)
        ]
    )


VECTORS = {f"image {k}": np.array([0, 0.1 * k, 0, 0], np.float32) for k in range(100)}
TARGETS = np.array([[1, 0, 0, 0], [1, 0.2, 0, 0], [9, 9, 9, 9]], np.float32)
SUPPORT = {0: Examples([], TARGETS, ["bag", "bag", "coat"])}


def test_panel_keeps_the_distances_between_embeddings():
    panels = trajectory_panels(trajectories(), VECTORS, SUPPORT)
    assert len(panels) == 2
    for pair, panel in enumerate(panels):
        flat = np.stack([panel.source, panel.target, *panel.levels])
        levels = [[0.3 * k, 0.1 * pair] for k in range(3)]
        expected = pdist(np.array([[0, 0.1 * pair], [1, 0.1], *levels]))
        assert pdist(flat) == pytest.approx(expected, abs=1e-6)
        assert panel.title == "coat → bag"
        assert list(panel.ratios) == list(RATIOS)
        assert panel.chosen == 1


def test_at_most_six_trajectories_have_a_panel():
    assert len(trajectory_panels(trajectories(20), VECTORS, SUPPORT)) == PANELS == 6
    assert trajectory_panels(trajectories().iloc[:0], VECTORS, SUPPORT) == []


PANEL = TrajectoryPanel(
    "a → b", np.zeros(2), np.ones(2), np.array([[0.2, 0.1], [0.8, 0.9]]), [0.5, 0.9], 1
)


def test_figure_shows_source_target_levels_and_a_ring_around_the_choice(shown):
    drawn = shown(lambda path: trajectory_figure([PANEL, PANEL], path))
    assert drawn.titles == ["a → b"] * 2
    for axis in drawn.figure.axes:
        levels, ring = axis.collections
        assert levels.get_offsets().tolist() == PANEL.levels.tolist()
        assert levels.get_array().tolist() == [0.5, 0.9]
        assert ring.get_offsets().tolist() == [[0.8, 0.9]]
        marks = {line.get_label(): line.get_xydata()[0].tolist() for line in axis.lines}
        assert (marks["Z_S"], marks["Z_T"]) == ([0, 0], [1, 1])
        assert [text.get_text() for text in axis.texts] == ["0.5", "0.9"]
    names = [text.get_text() for text in drawn.figure.axes[0].get_legend().get_texts()]
    assert names == ["Z_S", "Z_T"]


def test_without_trajectories_the_figure_is_empty(shown):
    (axis,) = shown(lambda path: trajectory_figure([], path)).figure.axes
    assert not axis.lines
    assert not axis.collections


def test_ratios_are_counted_and_positions_drawn_with_their_median(shown):
    table = pd.concat([trajectories(3), trajectories(2, chosen=2).assign(task=1)])
    figure = shown(lambda path: ratio_figure(table, path)).figure
    counts, curves = figure.axes
    assert [bar.get_height() for bar in counts.patches] == [0, 3, 2]
    assert [tick.get_text() for tick in counts.get_xticklabels()] == ["0.5", "0.7", "0.9"]
    (median,), (single,) = curves.lines, curves.collections
    drawn = sorted(line[0, 1] for line in single.get_segments())
    assert drawn == pytest.approx([0, 0, 0.1, 0.1, 0.2])
    assert median.get_label() == "median"
    assert list(median.get_ydata()) == pytest.approx([0.1, 0.4, 0.7])
    assert list(median.get_xdata()) == list(RATIOS)


def test_pairs_may_have_levels_of_their_own(shown):
    full, other = trajectories(1), trajectories(1).assign(source_id="other").iloc[1:2]
    figure = shown(lambda path: ratio_figure(pd.concat([full, other]), path)).figure
    (median,), (single,) = figure.axes[1].lines, figure.axes[1].collections
    assert sorted(len(line) for line in single.get_segments()) == [1, 3]
    assert list(median.get_xdata()) == list(RATIOS)


def test_own_class_and_text_to_image_choose_no_ratio(shown):
    own = trajectories().assign(source_label="bag")
    text = trajectories().assign(source_label=None, source_id=None, position=np.nan)
    for table in (own, text):
        figure = shown(lambda path, table=table: ratio_figure(table, path)).figure
        assert {bar.get_height() for bar in figure.axes[0].patches} == {0}
    assert not figure.axes[1].lines
    assert not figure.axes[1].collections


def test_without_images_both_panels_are_empty(shown):
    figure = shown(lambda path: ratio_figure(trajectories().iloc[:0], path)).figure
    assert not figure.axes[0].patches
    assert not figure.axes[1].lines
