import re
from types import SimpleNamespace

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from hypothesis import given
from hypothesis import strategies as st

from genie.errors import GenieError
from genie.generate.noise import (
    coincides,
    denoising_steps,
    initial_noise,
    levels,
    noise_seed,
    strength,
    warn_of_equal_levels,
)
from genie.generate.request import Request

REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "", 0.7, 0, 0, "")


@given(steps=st.integers(1, 120), data=st.data())
def test_ratio_of_whole_steps_takes_just_these(steps, data):
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
    with pytest.raises(GenieError, match=r"noise\.r must be in \(0, 1\], got"):
        denoising_steps(r, 50)


def test_zero_steps_are_an_error():
    with pytest.raises(GenieError, match=r"generator\.steps must be at least 1, got 0"):
        denoising_steps(0.5, 0)


def test_levels_of_the_paper_are_the_decimals_as_written():
    assert levels(0.5, 0.9, 5) == (0.5, 0.6, 0.7, 0.8, 0.9)
    assert levels(0.1, 1.0, 10) == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@pytest.mark.parametrize(
    ("low", "high", "count", "message"),
    [
        (0.5, 0.9, 1, r"noise\.M must be at least 2"),
        (0.9, 0.5, 5, r"noise\.low must be below noise\.high"),
        (0.5, 0.5, 5, r"noise\.low must be below noise\.high"),
        (0.0, 0.9, 5, r"noise\.low must be in \(0, 1\], got 0\.0"),
        (0.5, 1.1, 5, r"noise\.high must be in \(0, 1\], got 1\.1"),
    ],
)
def test_impossible_levels_are_an_error(low, high, count, message):
    with pytest.raises(GenieError, match=message):
        levels(low, high, count)


@pytest.mark.parametrize(
    ("steps", "different"), [(1, 1), (4, 3), (8, 4), (10, None), (20, None), (50, None)]
)
def test_steps_too_few_to_tell_levels_apart_are_warned_of(steps, different, caplog):
    warn_of_equal_levels((0.5, 0.6, 0.7, 0.8, 0.9), steps)
    expected = [] if different is None else [f"the 5 levels .* only {different} different numbers"]
    assert len(caplog.messages) == len(expected)
    assert all(re.search(*pair) for pair in zip(expected, caplog.messages, strict=True))


@pytest.mark.parametrize(
    ("r", "steps", "whole"), [(0.7, 10, True), (0.7, 4, False), (0.58, 50, True), (1.0, 3, True)]
)
def test_ratio_coincides_with_a_step_where_their_product_is_whole(r, steps, whole):
    assert coincides(r, steps) == whole


def test_noise_is_one_sample_for_all_levels_of_a_pair():
    other_level = Request("a", "shirt", "coat", "another prompt", "", 0.3, 0, 0, "")
    assert torch.equal(initial_noise(REQUEST, (4, 8, 8)), initial_noise(other_level, (4, 8, 8)))


def test_noise_differs_by_seed_source_target_replicate_and_support():
    seeds = {
        noise_seed(Request(source, None, target, "", "", 0.7, replicate, seed, support_id))
        for seed in (0, 1)
        for source in (None, "", "a")
        for target in ("coat", "bag")
        for replicate in (0, 1)
        for support_id in ("one", "another")
    }
    assert len(seeds) == 2 * 3 * 2 * 2 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_noise_is_standard_normal():
    noise = initial_noise(REQUEST, (4, 64, 64))
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
