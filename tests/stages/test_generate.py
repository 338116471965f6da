import re
from pathlib import Path

import pytest

from stages.generate import ratios_of, search_steps, warn_of_equal_levels
from stages.params import Params, read_yaml

BASE = read_yaml(Path(__file__).parents[2] / "params.yaml")


def params(method: str = "genie", **noise) -> Params:
    return Params.model_validate(BASE | {"method": method, "noise": BASE["noise"] | noise})


@pytest.mark.parametrize(
    ("method", "noise", "steps"),
    [
        ("genie", {"search": "exact"}, 50),
        ("genie", {"search": "preview"}, 10),
        ("genie", {"search": "preview", "preview_steps": 20}, 20),
        ("genie", {"search": "preview", "preview_steps": 80}, 50),
        ("genie", {"search": "preview", "r": 0.7}, 50),
        ("txt2img", {"search": "preview"}, 50),
    ],
)
def test_levels_are_compared_by_previews_only_where_there_is_a_choice(method, noise, steps):
    assert search_steps(params(method, **noise), full=50, between=True) == steps


@pytest.mark.parametrize(("count", "steps"), [(5, 10), (9, 20), (17, 40), (41, 50)])
def test_pipelines_that_start_at_steps_only_take_the_next_multiple_that_tells_levels_apart(
    count, steps
):
    noise = {"search": "preview", "preview_steps": 10, "M": count}
    assert search_steps(params(**noise), full=50, between=False) == steps
    assert search_steps(params(**noise), full=50, between=True) == 10


@pytest.mark.parametrize(
    ("steps", "different"), [(1, 1), (4, 3), (8, 4), (10, None), (20, None), (50, None)]
)
def test_steps_too_few_to_tell_levels_apart_are_warned_of(steps, different, caplog):
    warn_of_equal_levels(params(), steps)
    expected = [] if different is None else [f"the 5 levels .* only {different} different numbers"]
    assert len(caplog.messages) == len(expected)
    assert all(re.search(*pair) for pair in zip(expected, caplog.messages, strict=True))


@pytest.mark.parametrize(
    ("method", "noise", "ratios"),
    [
        ("genie", {}, (0.5, 0.6, 0.7, 0.8, 0.9)),
        ("genie", {"r": 0.7}, (0.7,)),
        ("img2img", {}, (0.7,)),
        ("img2img", {"r": 0.3}, (0.3,)),
        ("da-fusion", {}, (0.7,)),
        ("cap2aug", {}, (0.7,)),
    ],
)
def test_own_class_sources_take_one_ratio_where_ada_is_asked_for(method, noise, ratios):
    assert ratios_of(params(method, **noise)) == pytest.approx(ratios)
