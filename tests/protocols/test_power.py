import numpy as np
import pandas as pd
import pytest
from scipy import stats

from genie.measure.metrics import interval
from protocols.power import detectable, power_table


@pytest.mark.parametrize("tasks", [10, 20, 100])
def test_a_detectable_difference_is_found_in_four_of_five_cases(tasks):
    shift = detectable(2.0, tasks, shared=0.0) / (2.0 / np.sqrt(tasks))
    bound = stats.t.ppf(0.975, tasks - 1)
    assert stats.nct.sf(bound, tasks - 1, shift) == pytest.approx(0.8, abs=0.02)


def test_spread_is_of_differences_paired_by_task_in_points():
    scores = pd.DataFrame(
        {"task": [0, 1, 2] * 2, "row": list("AAABBB"), "accuracy": [0.1, 0.5, 0.9, 0.2, 0.6, 1.0]}
    )
    table = power_table(scores, reference="A", tasks=4, shared=0.0)
    assert list(table.index) == ["B"]
    assert table.loc["B"].to_numpy() == pytest.approx(0, abs=1e-9)


def test_interval_to_come_is_that_of_a_table_of_as_many_tasks():
    accuracies = np.random.default_rng(0).random((2, 5))
    table = pd.DataFrame(
        {"task": [*range(5)] * 2, "row": list("AAAAABBBBB"), "accuracy": accuracies.ravel()}
    )
    found = power_table(table, reference="A", tasks=5, shared=0.2)
    made = interval(accuracies[1] - accuracies[0], bounds=(-9, 9), shared=0.2)
    assert found.loc["B", "half_interval"] == pytest.approx(50 * (made.high - made.low), abs=1e-3)
