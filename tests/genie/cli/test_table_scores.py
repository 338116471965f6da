from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from genie.cli.main import main
from genie.measure.comparison import differences


def scores() -> pd.DataFrame:
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
    table = scores()
    found = differences(table, setting="two", row="A", other="B", shared=0.0)
    assert list(found) == ["accuracy", "boundary"]
    own = table[table["setting"] == "two"]
    a, b = (own.loc[own["row"] == row, "accuracy"].to_numpy() for row in "AB")
    reference = stats.ttest_rel(a, b).confidence_interval(0.95)
    gap = found["accuracy"]
    assert gap.mean == pytest.approx((a - b).mean(), abs=1e-6)
    assert (gap.low, gap.high) == pytest.approx((*reference,), abs=1e-6)
    assert found["boundary"].n == 5  # tasks that both rows have


def write_shared(folder: Path, shared: float) -> None:
    pd.DataFrame({"setting": ["one"], "shared": shared}).to_csv(folder / "results.csv", index=False)


def test_command_prints_points(tmp_path):
    table = scores()
    table.loc[table["row"] == "A", "accuracy"] = (
        table.loc[table["row"] == "B", "accuracy"].to_numpy() + 0.1
    )
    table.to_csv(tmp_path / "tasks.csv", index=False)
    write_shared(tmp_path, 0.2)
    printed = CliRunner().invoke(main, ["difference", str(tmp_path), "one", "A", "B"])
    assert printed.exit_code == 0
    assert printed.output.splitlines()[0] == "accuracy  +10.0 ± 0.0 points (n = 6)"


def test_shared_support_images_widen_the_interval(tmp_path):
    scores().to_csv(tmp_path / "tasks.csv", index=False)
    halves = []
    for shared in (0.0, 0.2):
        write_shared(tmp_path, shared)
        printed = CliRunner().invoke(main, ["difference", str(tmp_path), "one", "A", "B"])
        halves.append(float(printed.output.split()[3]))
    assert halves[1] / halves[0] == pytest.approx(np.sqrt((1 / 6 + 0.25) * 6), rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["three", "A", "B"], "has no 'three'; it has 'one', 'two'"),
        (["one", "A", "C"], "has no 'C'; it has 'A', 'B'"),
    ],
)
def test_command_names_what_the_table_has_not(tmp_path, arguments, message):
    scores().to_csv(tmp_path / "tasks.csv", index=False)
    result = CliRunner().invoke(main, ["difference", str(tmp_path), *arguments])
    assert result.exit_code == 1
    assert message in result.output


def test_missing_table_names_the_command_that_makes_it(tmp_path):
    result = CliRunner().invoke(main, ["difference", str(tmp_path / "no"), "one", "A", "B"])
    assert result.exit_code == 1
    assert "does not exist; run `dvc repro" in result.output
