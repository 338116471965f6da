import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from genie.figures.curves import by_noise_ratio, curves


def trajectories(count: int = 5, source: str | None = "coat") -> pd.DataFrame:
    """Trajectories of two levels; the second is chosen in all but the first."""
    return pd.DataFrame(
        [
            {
                "task": 0,
                "target_label": "bag",
                "source_label": source,
                "r": r,
                "position": 0.1 * k + level,
                "predicted_target": level == 1 and k > 0,
                "chosen": level == (0 if k == 0 else 1),
            }
            for k in range(count)
            for level, r in enumerate((0.5, 0.9))
        ]
    )


def test_table_has_quartiles_shares_and_counts_of_each_ratio():
    table = by_noise_ratio(trajectories())
    low, high = table.to_dict("records")
    positions = [0.1 * k for k in range(5)]
    quartiles = np.percentile(positions, [25, 50, 75])
    assert [low["low"], low["median"], low["high"]] == pytest.approx(quartiles)
    assert [high["low"], high["median"], high["high"]] == pytest.approx(quartiles + 1)
    assert (low["r"], low["images"], low["predicted_target"], low["chosen"]) == (0.5, 5, 0, 1)
    assert (high["r"], high["images"], high["chosen"]) == (0.9, 5, 4)
    assert high["predicted_target"] == pytest.approx(0.8)


def test_curves_are_svg_whose_words_stay_text_and_the_same_every_time():
    drawn = curves(trajectories())
    texts = {
        name: {
            element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("text")
        }
        for name, svg in vars(drawn).items()
        if name != "table"
    }
    assert texts["position"] >= {"position d", "noise ratio r", "source", "target"}
    assert texts["predicted_target"] >= {"share predicted as target"}
    assert texts["chosen"] >= {"images with this r*", "0.5", "0.9"}
    again = curves(trajectories())
    assert (drawn.position, drawn.predicted_target, drawn.chosen) == (
        again.position,
        again.predicted_target,
        again.chosen,
    )
    assert curves(trajectories(4)).position != drawn.position


def test_there_are_no_curves_without_levels_between_two_classes():
    assert curves(trajectories(source="bag")) is None
    assert curves(trajectories(source=None)) is None
    assert curves(trajectories().query("r == 0.5")) is None
    assert curves(trajectories().iloc[:0]) is None
