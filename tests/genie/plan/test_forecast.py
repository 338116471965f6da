"""The cost of a plan, counted before anything is rendered."""

from dataclasses import replace

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from genie.data.prompts import Prompts
from genie.plan.forecast import Forecast, forecast, guided_steps
from genie.plan.levels import Levels, denoising_steps
from genie.plan.methods import METHODS, plan_slots
from genie.plan.requests import Request, distinct
from genie.plan.tasks import TaskSpec
from genie.render.loop import Renderer
from genie.render.store import MemoryStore
from tests.genie.render.engines import FakeEngine

REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "", 0.7, 0, 0, "")
SUPPORT = pd.DataFrame(
    [(f"{label}-{i}", label) for label in ("coat", "shirt", "bag") for i in range(3)],
    columns=["image_id", "label"],
)
SOURCES = pd.DataFrame(
    [("coat", "shirt", 1), ("coat", "bag", 2)], columns=["target", "source", "rank"]
)


def task(**changes) -> TaskSpec:
    options = {"per_class": {"coat": 4}, "ratios": Levels().ratios, "prompts": Prompts()}
    return TaskSpec(SUPPORT, SOURCES, seed=0, **(options | changes))


def test_nothing_costs_nothing():
    assert forecast([], 50) == Forecast(images=0, guided_steps=0)


@given(ratios=st.lists(st.integers(1, 100).map(lambda percent: percent / 100), max_size=9))
def test_guided_steps_are_the_sum_of_the_steps_of_each_image(ratios):
    requests = [replace(REQUEST, r=r, replicate=i) for i, r in enumerate(ratios)]
    found = forecast(requests, 20)
    assert found == Forecast(len(ratios), sum(denoising_steps(r, 20) for r in ratios))
    assert guided_steps(requests, 20) == found.guided_steps


def test_levels_of_the_paper_take_175_guided_steps_per_image():
    slots = plan_slots(METHODS["genie"], [task()])
    assert forecast(distinct(slots), 50) == Forecast(images=4 * 5, guided_steps=4 * 175)


def test_equal_tasks_cost_no_more_than_one():
    one, two = ([task(number=i) for i in range(count)] for count in (1, 2))
    plans = [plan_slots(METHODS["genie"], tasks) for tasks in (one, two)]
    assert forecast(distinct(plans[0]), 50) == forecast(distinct(plans[1]), 50)


def test_the_forecast_is_the_cost_of_rendering_into_an_empty_store():
    requests = distinct(plan_slots(METHODS["genie"], [task()]))
    sources = dict.fromkeys(SUPPORT["image_id"], b"")
    ahead = forecast(requests, 20)
    cost = Renderer(FakeEngine(), MemoryStore(), sources).ensure(
        requests, steps=20, extra_steps=None
    )
    assert (cost.rendered, cost.guided_steps_rendered) == (ahead.images, ahead.guided_steps)
    assert (cost.needed, cost.guided_steps_needed) == (ahead.images, ahead.guided_steps)
