import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from statsmodels.stats.proportion import proportion_confint

from benchmarks import coverage
from genie.measure.metrics import DIFFERENCE, SHARE

RECORDED = pd.read_csv("benchmarks/coverage.csv")


def test_recorded_intervals_contain_the_truth_in_at_least_nine_of_ten_draws():
    assert set(RECORDED["over"]) == {"query images", "splits"}
    assert set(RECORDED["draws"]) == {200}
    assert (RECORDED["coverage"] >= 0.9).all()
    too_sure_of = RECORDED[RECORDED["coverage"] > 0.98]
    assert too_sure_of["needed_width"].notna().all()
    bootstrapped = RECORDED[RECORDED["over"] == "query images"]
    assert (bootstrapped["width"] < bootstrapped["exact_width"]).all()


def test_exact_widths_are_those_of_clopper_and_pearson():
    share = np.array([1.0] * 27 + [0.0] * 3)
    low, high = proportion_confint(27, 30, method="beta")
    assert coverage.exact_width(share, SHARE) == pytest.approx(high - low)
    gain = np.array([1.0] * 4 + [-1.0] + [0.0] * 25)
    parts = [proportion_confint(k, 30, alpha=0.025, method="beta") for k in (4, 1)]
    expected = (parts[0][1] - parts[1][0]) - (parts[0][0] - parts[1][1])
    assert coverage.exact_width(gain, DIFFERENCE) == pytest.approx(expected)


def test_command_has_a_row_per_interval_measure_and_size(tmp_path, monkeypatch):
    monkeypatch.setattr(coverage, "QUERIES", (3,))
    monkeypatch.setattr(coverage, "OWN", (10,))
    arguments = ["--draws", "2", "--out", str(tmp_path / "out.csv")]
    result = CliRunner().invoke(coverage.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table.columns) == list(RECORDED.columns)
    assert table["queries"].tolist() == [30] * 6
    assert table["added"].tolist() == [*coverage.ADDED, *coverage.ADDED]
    assert table["width"].between(0, 1).all()
