import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from genie.measure.metrics import (
    SHARE,
    Interval,
    bootstrap,
    boundary_right,
    class_accuracies,
    group_accuracies,
    holm,
    interval,
    mean_of_parts,
    overlap_coefficient,
    paired_p,
    percent,
    spread_of_mean,
)


def test_interval_is_that_of_students_t():
    values = [0.6, 0.7, 0.65, 0.72]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    result = interval(values)
    assert result.mean == pytest.approx(np.mean(values))
    assert (result.low, result.high) == pytest.approx((low, high), abs=1e-6)
    assert result.n == 4


def test_one_value_has_no_interval():
    assert interval([0.5]) == Interval(0.5, None, None, 1)


def test_no_value_has_no_mean():
    assert interval([]) == Interval(None, None, None, 0)


def test_class_accuracy_counts_by_true_class():
    result = class_accuracies(np.array(["a", "a", "b"]), np.array(["a", "b", "b"]))
    assert result.to_dict() == {"a": 0.5, "b": 1.0}


def test_empty_group_is_none_and_not_zero():
    groups = pd.Series({"a": "few", "b": "few"})
    result = group_accuracies(pd.Series({"a": 0.0, "b": 1.0}), groups)
    assert result == {"many": None, "medium": None, "few": 0.5}


def test_paired_p_is_scipys():
    first, second = [0.61, 0.64, 0.70, 0.66], [0.60, 0.61, 0.69, 0.61]
    assert paired_p(first, second) == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert paired_p(first, first) == 1
    assert paired_p(first[:1], second[:1]) is None


def test_holm_of_a_worked_example():
    # Holm 1979: smallest p times 4, next times 3, ..., never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("size", [1, 2, 5, 40, 120])
def test_holm_equals_statsmodels(size):
    p_values = np.random.default_rng(size).choice([0.0, 1e-8, 0.001, 0.01, 0.02, 0.3, 1.0], size)
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_overlap_of_densities_in_a_plain_loop():
    random = np.random.default_rng(0)
    first, second = random.beta(2, 5, 400), random.beta(4, 3, 300)
    shared = 0.0
    for k in range(20):
        low, high = k / 20, (k + 1) / 20
        shared += min(
            sum(low <= v < high for v in first) / 400, sum(low <= v < high for v in second) / 300
        )
    assert overlap_coefficient(first, second) == pytest.approx(shared)
    assert overlap_coefficient(first, first) == pytest.approx(1)
    assert overlap_coefficient([0.1], [0.9]) == 0
    assert overlap_coefficient([], [0.9]) is None


def test_boundary_lets_only_the_two_classes_of_a_pair_compete():
    probabilities = np.array(
        [[0.3, 0.1, 0.6], [0.1, 0.3, 0.6], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]]
    )
    labels = ["a", "a", "b", "b", "c"]
    options = {"classes": ["a", "b", "c"]}
    right = boundary_right(probabilities, labels, pairs=[("a", "b"), ("a", "c")], **options)
    nan = np.nan
    # a against c: 0.3 < 0.6 and 0.1 < 0.6 are wrong, c is right
    expected = [[1, 0], [0, 0], [0, nan], [1, nan], [nan, 1]]
    np.testing.assert_array_equal(right, expected)
    assert mean_of_parts(right) == pytest.approx((0.5 + 1 / 3) / 2)
    assert boundary_right(probabilities[:0], [], pairs=[("a", "b")], **options).shape == (0, 1)


def test_interval_of_two_values_stays_within_what_is_possible():
    """Student's t of 0.9 and 1.0 reaches from 0.31 to 1.59."""
    found = interval([0.9, 1.0], bounds=SHARE)
    assert (found.low, found.high) == (pytest.approx(0.95 - 12.7062 * 0.05, abs=1e-4), 1.0)
    assert interval([-0.9, 0.9]).low == -1
    assert interval([0.0, 0.1], bounds=SHARE).low == 0


@pytest.mark.parametrize(
    ("values", "signed", "text"),
    [
        ((0.5,), False, "50.0"),
        ((0.5, 0.45, 0.55), False, "50.0 ± 5.0"),
        ((0.5, 0.45, 0.55), True, "+50.0 ± 5.0"),
        ((-0.012, None, None), True, "-1.2"),
        ((0.5, float("nan"), float("nan")), False, "50.0"),
        ((None,), False, ""),
        ((float("nan"),), True, ""),
    ],
)
def test_percent_has_half_the_width_of_the_interval(values, signed, text):
    assert percent(*values, signed=signed) == text


@given(st.integers(2, 30), st.integers(1, 5), st.integers(6, 60))
def test_spread_of_a_mean_is_that_of_draws_from_one_pool(n, size, pool):
    """For means of values: variance over pools of the mean of n draws of `size` out of `pool`."""
    shared = size / pool
    within = (1 - shared) / size  # variance of one draw's mean, given the pool, in units of sigma²
    expected = 1 / pool + within / n
    assert spread_of_mean(n, shared) ** 2 * within == pytest.approx(expected)


def test_tasks_of_one_support_set_have_a_mean_and_no_interval():
    assert interval([0.1, 0.3], shared=1.0) == Interval(0.2, None, None, 2)
    assert paired_p([0.1, 0.3], [0.2, 0.2], shared=1.0) is None


def test_bootstrap_of_many_images_is_that_of_scipy():
    right = (np.random.default_rng(0).random(800) < 0.7).astype(float)
    expected = stats.bootstrap((right,), np.mean, method="percentile", rng=0).confidence_interval
    found = bootstrap(right[:, None], range(800), bounds=SHARE)
    assert found.mean == pytest.approx(right.mean(), abs=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.006)
    assert found.n == 800


def test_groups_are_drawn_together_so_that_copies_add_no_certainty():
    right = np.random.default_rng(1).integers(0, 2, 50).astype(float)
    alone = bootstrap(right[:, None], range(50), bounds=SHARE)
    copied = bootstrap(np.repeat(right, 7)[:, None], np.repeat(range(50), 7), bounds=SHARE)
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), abs=1e-6)
    assert copied.n == 350


@pytest.mark.parametrize("n", [1, 3, 28])
def test_models_that_never_differ_on_few_images_are_not_known_to_be_equal(n):
    found = bootstrap(np.zeros((n, 1)), range(n))
    assert found.mean == 0
    # with no difference in n images, up to 3/n of all may differ (rule of three)
    assert found.low < -0.5 / n < 0 < 0.5 / n < found.high
    all_right = bootstrap(np.ones((n, 1)), range(n), bounds=SHARE)
    assert all_right.low < 1 == all_right.high


def test_bootstrap_of_parts_averages_their_means():
    values = np.array([[1, np.nan], [0, np.nan], [np.nan, 1.0], [np.nan, 1.0], [np.nan, np.nan]])
    found = bootstrap(values, range(5), bounds=SHARE)
    assert (found.mean, found.n) == (0.75, 4)
    assert bootstrap(np.full((3, 1), np.nan), range(3)) == Interval(None, None, None, 0)
