"""The choice of a level, against the paper's Algorithm 1."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie.choose.adaptive import (
    axis_positions,
    chosen_level,
    finalists,
    largest_shift,
    shift_ratio,
)
from genie.core.errors import InvalidValueError


def test_positions_are_zero_at_the_source_and_one_at_the_target():
    source, target = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.0, 1.0])
    between = 0.25 * source + 0.75 * target
    found = axis_positions(np.stack([source, between, target]), source, target)
    assert found == pytest.approx([0, 0.75, 1])


def test_positions_ignore_what_is_orthogonal_to_the_axis():
    source, target = np.array([0.0, 0.0]), np.array([2.0, 0.0])
    assert axis_positions(np.array([[1.0, 7.0]]), source, target) == pytest.approx([0.5])


def test_positions_match_the_formula_of_algorithm_1():
    rng = np.random.default_rng(0)
    z, source, target = rng.normal(size=(5, 8)), rng.normal(size=8), rng.normal(size=8)
    axis = target - source
    expected = [np.dot(zm - source, axis) / np.linalg.norm(axis) ** 2 for zm in z]
    assert axis_positions(z, source, target) == pytest.approx(expected)


def test_equal_source_and_target_are_an_error():
    z = np.ones(4, dtype=np.float32)
    with pytest.raises(InvalidValueError, match="must differ to span an axis"):
        axis_positions(np.zeros((2, 4)), z, z)


@pytest.mark.parametrize("name", ["z_levels", "z_source", "z_target"])
def test_embedding_that_is_not_finite_is_an_error(name):
    z = {"z_levels": np.zeros((2, 3)), "z_source": np.zeros(3), "z_target": np.ones(3)}
    z[name].flat[0] = np.nan
    with pytest.raises(InvalidValueError, match=f"{name} must be finite") as error:
        axis_positions(**z)
    assert error.value.argument == name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.1, 0.8, 0.9, 1.0], 2),
        ([0.0, 0.9, 0.1, 0.2, 0.3], 1),
        ([0.0, 0.1, 0.2, -0.7, -0.6], 3),
        ([0.0, 0.5, 1.0], 1),
        ([0.1, 0.4, 0.4 + 0.3], 1),
        ([0.3, 0.3, 0.3], 1),
        ([0.0, 0.2], 1),
        ([5.0, 5.0, 5.0, 6.0], 3),
    ],
)
def test_ratio_after_largest_shift_is_chosen(values, expected):
    assert largest_shift(np.array(values)) == expected


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=9))
def test_choice_is_the_lowest_level_with_no_larger_jump(values):
    jumps = [abs(b - a) for a, b in pairwise(values)]
    assert largest_shift(np.array(values, dtype=float)) == jumps.index(max(jumps)) + 1


def test_single_level_is_an_error():
    with pytest.raises(
        InvalidValueError, match=r"^positions must hold at least 2 levels to compare, got 1$"
    ):
        largest_shift(np.array([0.3]))


def test_position_that_is_not_finite_is_an_error():
    with pytest.raises(InvalidValueError, match="positions must be finite"):
        largest_shift(np.array([0.0, np.nan, 1.0]))


def test_shift_ratio_compares_largest_and_second_largest_jump():
    assert shift_ratio(np.array([0.0, 0.1, 0.7, 0.4])) == pytest.approx(2.0)
    assert shift_ratio(np.array([0.0, 0.0, 1.0])) == float("inf")
    assert np.isnan(shift_ratio(np.array([0.0, 1.0])))
    assert np.isnan(shift_ratio(np.array([0.5, 0.5, 0.5])))


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([0.0, 0.5, 0.6, 0.7, 1.0], [0, 1, 3, 4]),
        ([0.0, 0.1, 0.5, 1.0, 1.0], [1, 2, 3]),
        ([0.0, 0.5, 0.5, 1.0, 1.0], [0, 1, 2, 3]),
        ([0.0, 1.0], [0, 1]),
    ],
)
def test_finalists_are_the_ends_of_the_two_largest_jumps(positions, expected):
    assert finalists(np.array(positions)) == expected


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=8))
def test_the_finalists_include_the_choice_among_all_levels(positions):
    full = np.array(positions)
    jumps = np.abs(np.diff(full))
    chosen = largest_shift(full, among=finalists(full))
    assert jumps[chosen - 1] == pytest.approx(jumps.max(), abs=2e-9)


def test_jumps_to_levels_that_are_left_out_do_not_count():
    assert largest_shift(np.array([0.0, 0.2, 9.0, 3.0, 3.1]), among=[0, 1, 3, 4]) == 1


@given(
    positions=st.lists(st.floats(-2, 2), min_size=2, max_size=9).map(np.array),
    min_position=st.floats(-2, 2),
)
def test_chosen_level_is_near_the_target_from_the_largest_shift_on(positions, min_position):
    start = largest_shift(positions)
    assert chosen_level(positions) == start
    found = chosen_level(positions, min_position=min_position)
    assert all(positions[m] < min_position for m in range(start, found))
    assert positions[found] >= min_position or found == len(positions) - 1
