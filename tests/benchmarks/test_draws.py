from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.draws import DRAWS, SPREAD, spread
from genie.core.tables import read_table

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_intervals_over_tasks_imply_the_deviation_of_normal_differences_over_draws():
    draws = np.random.default_rng(0).normal(0.02, 0.01, (4000, 25))
    half = 2.0639 * draws.std(1, ddof=1) / 5  # t(0.975, 24)
    mean = draws.mean(1)
    table = pd.DataFrame(
        {"noise": "a", "difference": mean, "low": mean - half, "high": mean + half, "n": 25}
    )
    found = spread(table).iloc[0]
    assert found["deviation"] == pytest.approx(0.002, rel=0.05)
    assert found["implied_deviation"] == pytest.approx(found["deviation"], rel=0.05)
    assert found["leave_out_0"] == 4000
    assert found["lowest"] < 0.015 < 0.025 < found["highest"]


def test_recorded_spread_is_that_of_the_recorded_draws():
    recorded = read_table(BENCHMARKS / "draws-spread.csv", SPREAD)
    made = spread(read_table(BENCHMARKS / "draws.csv", DRAWS))
    pd.testing.assert_frame_equal(recorded, made, check_dtype=False)
