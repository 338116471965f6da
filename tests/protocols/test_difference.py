import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from protocols.difference import differences, main


def tasks() -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "setting": setting, "row": row, "task": task, "accuracy": random.random(),
                "boundary": random.random() if row == "A" or task else np.nan,
                "many": np.nan, "medium": np.nan, "few": np.nan,
            }
            for setting in ("one", "two")
            for row in "AB"
            for task in range(6)
        ]
    )  # fmt: skip


def test_difference_is_that_of_a_paired_t_test():
    table = tasks()
    found = differences(table, setting="two", row="A", other="B").set_index("share")
    assert list(found.index) == ["accuracy", "boundary"]
    own = table[table["setting"] == "two"]
    a, b = (own.loc[own["row"] == row, "accuracy"].to_numpy() for row in "AB")
    reference = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found.loc["accuracy", ["low", "high"]].tolist() == pytest.approx([*reference], abs=1e-6)
    assert found.loc["boundary", "n"] == 5  # tasks that both rows have


def test_command_prints_points_and_names_what_it_does_not_know(tmp_path):
    tasks().to_csv(tmp_path / "tasks.csv", index=False)
    printed = CliRunner().invoke(main, [str(tmp_path), "one", "A", "B"])
    assert printed.exit_code == 0
    assert printed.output.startswith("accuracy  ")
    unknown = CliRunner().invoke(main, [str(tmp_path), "one", "A", "C"])
    assert unknown.exit_code == 1
    assert "has no 'C'; it has 'A', 'B'" in unknown.output
    missing = CliRunner().invoke(main, [str(tmp_path / "no"), "one", "A", "B"])
    assert "does not exist; run `dvc repro" in missing.output
