from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from genie.measure.metrics import SHARES
from protocols.specification import BASELINE, Protocol, Setting, read_protocol
from protocols.table import RESULTS, compare, markdown

ROOT = Path(__file__).parents[2]
RECORDED = sorted(path.parent for path in ROOT.glob("protocols/*/results.csv"))

TWO_ROWS = Protocol(
    title="Title",
    params={},
    settings={"one": Setting({}, ["A", "B"])},
    rows={"A": {"noise.r": 0.5}, "B": {"noise.r": 0.7}},
    reference="B",
    paper={"one": {"A": 0.25}},
    overlay={},
)
FACTS = pd.DataFrame(
    {
        "setting": "one",
        "row": ["A", "B"],
        "label_consistency": [0.5, 1.0],
        "mean_r": [0.5, 0.7],
        "images": [3, 3],
        "guided_steps": [75, 1050],
        "rejected": [0, 1],
        "seconds": [1800.0, 900.0],
        "shared": 0.0,
        "commit": "abc123456",
        "machine": "x86_64, 2 threads",
    }
)


def scores(accuracies: dict[str, list[float]], **shares: float) -> pd.DataFrame:
    tables = [
        pd.DataFrame({"setting": "one", "row": row, "task": range(len(a)), "accuracy": a})
        for row, a in accuracies.items()
    ]
    return pd.concat(tables).assign(**dict.fromkeys(SHARES, np.nan) | shares)


@pytest.mark.parametrize("folder", RECORDED, ids=lambda p: p.name)
def test_recorded_tables_follow_from_the_recorded_accuracies(folder):
    recorded = pd.read_csv(folder / "results.csv")
    named = ["commit", "machine"]
    recorded[named] = recorded[named].astype(object).fillna("")  # the baseline's are empty
    protocol = read_protocol(folder / "protocol.yaml")
    accuracies = pd.read_csv(folder / "tasks.csv")
    made = compare(protocol, accuracies, recorded[list(FACTS.columns)])
    pd.testing.assert_frame_equal(made, recorded, check_dtype=False, atol=1e-9)
    assert markdown(protocol, made) == (folder / "results.md").read_text(encoding="utf-8")


def test_intervals_are_those_of_paired_t_tests():
    random = np.random.default_rng(0)
    values = {row: list(random.random(8)) for row in (BASELINE, "A", "B")}
    table = compare(TWO_ROWS, scores(values), FACTS).set_index("row")
    against = {row: stats.ttest_rel(values[row], values["B"]) for row in (BASELINE, "A")}
    gain = stats.ttest_rel(values["A"], values[BASELINE]).confidence_interval(0.95)
    gap = against["A"].confidence_interval(0.95)
    assert table.loc["A", ["gain_low", "gain_high"]].tolist() == pytest.approx([*gain], abs=1e-6)
    assert table.loc["A", ["to_reference_low", "to_reference_high"]].tolist() == pytest.approx(
        [*gap], abs=1e-6
    )


def test_differences_are_paired_by_task():
    tasks = scores({BASELINE: [0.1, 0.5, 0.9], "A": [0.2, 0.6, 1.0], "B": [0.3, 0.5, 1.0]})
    table = compare(TWO_ROWS, tasks, FACTS).set_index("row")
    # every task gains 0.1 by A: the interval of the paired gain has no width, the accuracy's does
    assert table.loc["A", ["gain", "gain_low", "gain_high"]].tolist() == pytest.approx([0.1] * 3)
    assert table.loc["A", "low"] < 0.2
    assert table.loc["B", "to_reference"] == 0
    assert table.loc["A", "paper"] == 0.25
    assert table["n"].tolist() == [3, 3, 3]
    assert list(compare(TWO_ROWS, tasks, FACTS).columns) == list(RESULTS)


def test_one_task_has_a_mean_and_no_interval():
    table = compare(TWO_ROWS, scores({BASELINE: [0.1], "A": [0.2], "B": [0.3]}), FACTS)
    assert table["accuracy"].tolist() == [0.1, 0.2, 0.3]
    assert table[["low", "high", "gain_low", "gain_high"]].isna().all(axis=None)
    assert "| A | 20.0 | +10.0 | -10.0 | 50.0 |" in markdown(TWO_ROWS, table)


def test_page_has_a_row_per_method_and_no_cell_without_n():
    tasks = scores({BASELINE: [0.1, 0.5], "A": [0.2, 0.6], "B": [0.3, 0.5]})
    text = markdown(TWO_ROWS, compare(TWO_ROWS, tasks, FACTS))
    assert text.startswith("# Title\n\n## one (n = 2 tasks)\n")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in rows] == ["| method", "| Weak", "| A", "| B"]
    assert len({line.count("|") for line in rows}) == 1
    assert rows[2].endswith("| 50.0 | 0.50 | 3 | 0 | 75 | 25.0 |")
    assert rows[3].endswith("| 100.0 | 0.70 | 3 | 1 | 1,050 |  |")


@pytest.mark.parametrize(
    ("shares", "shown"),
    [
        ({}, []),
        ({"few": 0.5}, []),  # the only group says the same as the accuracy
        ({"boundary": 0.5, "few": 0.5}, ["boundary"]),
        ({"many": 0.5, "few": 0.5}, ["many", "few"]),
    ],
)
def test_page_shows_the_shares_that_say_something(shares, shown):
    tasks = scores({BASELINE: [0.1, 0.5], "A": [0.2, 0.6], "B": [0.3, 0.5]}, **shares)
    text = markdown(TWO_ROWS, compare(TWO_ROWS, tasks, FACTS))
    (head,) = (line for line in text.splitlines() if line.startswith("| method"))
    assert head.split(" | ")[2 : 2 + len(shown) + 1] == [*shown, "gain over weak"]
