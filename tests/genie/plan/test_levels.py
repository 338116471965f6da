"""The noise ratio and its denoising steps, against diffusers; the levels of GeNIe-Ada."""

import re
from types import SimpleNamespace

import pytest
from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from hypothesis import given
from hypothesis import strategies as st

from genie.core.errors import GenieError, InvalidValueError
from genie.plan.levels import (
    Levels,
    coincides,
    denoising_steps,
    require_ratio_or_ada,
    strength,
    warn_of_equal_levels,
)


@given(steps=st.integers(1, 120), data=st.data())
def test_ratio_of_a_whole_number_of_steps_takes_this_number(steps, data):
    k = data.draw(st.integers(1, steps))
    assert denoising_steps(k / steps, steps) == k


@given(steps=st.integers(1, 120), percent=st.integers(1, 100))
def test_denoising_steps_are_at_most_half_a_step_from_the_ratio(steps, percent):
    k = denoising_steps(percent / 100, steps)
    assert 1 <= k <= steps
    assert k == 1 or abs(100 * k - percent * steps) <= 50
    assert k >= denoising_steps(max(1, percent - 1) / 100, steps)


def test_diffusers_takes_exactly_the_denoising_steps_from_the_strength():
    scheduler = DPMSolverMultistepScheduler()
    pipeline = SimpleNamespace(scheduler=scheduler)
    for steps in (1, 2, 7, 10, 30, 50, 100):
        scheduler.set_timesteps(steps)
        for percent in range(1, 101):
            r = percent / 100
            timesteps, taken = StableDiffusionImg2ImgPipeline.get_timesteps(
                pipeline, steps, strength(r, steps), "cpu"
            )
            assert len(timesteps) == taken == denoising_steps(r, steps), (percent, steps)
            assert 0 < strength(r, steps) <= 1


@pytest.mark.parametrize(
    ("r", "steps", "expected"),
    [
        *((0.5, 50, 25), (0.6, 50, 30), (0.7, 50, 35), (0.8, 50, 40), (0.9, 50, 45)),
        *((0.58, 50, 29), (0.7000000000000001, 50, 35), (1.0, 50, 50), (0.001, 50, 1)),
        *((0.7, 4, 3), (0.6, 4, 2), (0.5, 5, 3), (0.54, 10, 5), (0.55, 10, 6), (0.04, 10, 1)),
    ],
)
def test_denoising_steps_of_known_ratios(r, steps, expected):
    assert denoising_steps(r, steps) == expected


@pytest.mark.parametrize("r", [0.0, -0.1, 1.0001, float("nan")])
def test_ratio_outside_the_unit_interval_is_an_error(r):
    with pytest.raises(InvalidValueError, match=r"^r must be in \(0, 1\], got") as error:
        denoising_steps(r, 50)
    assert (error.value.argument, error.value.remedy) == ("r", "0.7 is a usual value")


def test_zero_steps_are_an_error():
    with pytest.raises(ValueError, match=r"^steps must be at least 1, got 0; 50 is a usual value$"):
        denoising_steps(0.5, 0)


@pytest.mark.parametrize("r", ["ada", 0.5, 1, 1e-9])
def test_ada_and_ratios_are_valid(r):
    require_ratio_or_ada(r)


@pytest.mark.parametrize("r", ["adaptive", "0.5", 0, -1, 1.5, float("nan"), True, None])
def test_values_other_than_ada_or_a_ratio_are_errors(r):
    with pytest.raises(InvalidValueError, match=r'^r must be "ada" or in \(0, 1\], got') as error:
        require_ratio_or_ada(r)
    assert error.value.argument == "r"
    assert error.value.value is r


def test_levels_of_the_paper_are_the_decimals_as_written():
    assert Levels(0.5, 0.9, 5).ratios == (0.5, 0.6, 0.7, 0.8, 0.9)
    tenths = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert Levels(0.1, 1.0, 10).ratios == tenths


def test_default_levels_are_those_of_the_paper():
    assert Levels() == Levels(low=0.5, high=0.9, M=5, min_position=0.8, search="exact")


@pytest.mark.parametrize(
    ("low", "high", "count", "argument", "message"),
    [
        (0.5, 0.9, 1, "M", r"^M must be at least 2 to compare levels, got 1; use 5$"),
        (0.9, 0.5, 5, "low", r"^low must be below `high` \(0\.5\), got 0\.9; swap them$"),
        (0.5, 0.5, 5, "low", r"^low must be below `high` \(0\.5\), got 0\.5"),
        (0.0, 0.9, 5, "low", r"^low must be in \(0, 1\], got 0\.0; 0\.5 is a usual value$"),
        (0.5, 1.1, 5, "high", r"^high must be in \(0, 1\], got 1\.1; 0\.9 is a usual value$"),
    ],
)
def test_impossible_levels_are_an_error(low, high, count, argument, message):
    with pytest.raises(ValueError, match=message) as error:
        Levels(low, high, count)
    assert isinstance(error.value, GenieError)
    assert error.value.argument == argument


def test_another_search_is_an_error_with_the_nearest_name():
    with pytest.raises(InvalidValueError, match=r"^search must be .*did you mean preview\?$"):
        Levels(search="previews")


@pytest.mark.parametrize(
    ("steps", "different"), [(1, 1), (4, 3), (8, 4), (10, None), (20, None), (50, None)]
)
def test_too_few_steps_to_distinguish_levels_give_a_warning(steps, different, caplog):
    warn_of_equal_levels((0.5, 0.6, 0.7, 0.8, 0.9), steps)
    expected = [] if different is None else [f"the 5 levels .* only {different} different numbers"]
    assert len(caplog.messages) == len(expected)
    assert all(re.search(*pair) for pair in zip(expected, caplog.messages, strict=True))


@pytest.mark.parametrize(
    ("r", "steps", "whole"), [(0.7, 10, True), (0.7, 4, False), (0.58, 50, True), (1.0, 3, True)]
)
def test_ratio_coincides_with_a_step_where_their_product_is_whole(r, steps, whole):
    assert coincides(r, steps) == whole
