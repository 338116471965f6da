import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie.cli.reproduction import TOLERANCE, disagreements

COMMITTED = {
    "gain": {"mean": 0.05, "low": None, "n": 5},
    "images": 500,
    "mean_r": 0.7,
    "label_consistency": None,
}


def changed(key: str, value: object) -> dict:
    made = copy.deepcopy(COMMITTED)
    *sections, name = key.split(".")
    at = made
    for section in sections:
        at = at[section]
    at[name] = value
    return made


def test_equal_metrics_do_not_differ():
    assert disagreements(COMMITTED, copy.deepcopy(COMMITTED)) == []


@given(st.floats(-0.999, 0.999))
def test_shares_may_differ_by_the_tolerance_in_either_direction(part):
    assert disagreements(COMMITTED, changed("gain.mean", 0.05 + part * TOLERANCE)) == []


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("mean_r", 0.7 + 1.1 * TOLERANCE, "mean_r: committed 0.7, made 0.72"),
        ("gain.mean", 0.05 - 1.1 * TOLERANCE, "gain.mean: committed 0.05, made 0.028"),
        ("images", 499, "images: committed 500, made 499"),
        ("gain.n", 4, "gain.n: committed 5, made 4"),
        ("label_consistency", 0.5, "label_consistency: committed None, made 0.5"),
        ("gain.mean", None, "gain.mean: committed 0.05, made None"),
        ("gain.extra", 1, "gain.extra: only on one side"),
    ],
)
def test_other_value_count_or_null_is_a_line(key, value, line):
    (found,) = disagreements(COMMITTED, changed(key, value))
    assert found.startswith(line)


def test_missing_value_is_a_line_for_either_side():
    fewer = {key: value for key, value in COMMITTED.items() if key != "gain"}
    expected = [f"gain.{name}: only on one side" for name in ("low", "mean", "n")]
    assert disagreements(COMMITTED, fewer) == disagreements(fewer, COMMITTED) == expected


def test_what_intervals_are_over_must_agree():
    first = COMMITTED | {"interval_over": "support sets"}
    assert disagreements(first, dict(first)) == []
    (line,) = disagreements(first, COMMITTED | {"interval_over": "splits"})
    assert line == "interval_over: committed support sets, made splits"
