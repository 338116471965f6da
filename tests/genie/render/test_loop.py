"""The one loop that renders what a store lacks."""

import itertools
import json
import logging
from contextlib import contextmanager
from dataclasses import astuple, fields, replace

import pytest
import torch

from genie.plan.levels import denoising_steps
from genie.plan.requests import Request
from genie.render.engine import LocalEngine
from genie.render.loop import Cost, Renderer
from genie.render.model import load_generator
from genie.render.model_info import RenderSettings
from genie.render.store import DiskStore, MemoryStore, store_path
from tests.genie.render.engines import REQUEST as FIRST
from tests.genie.render.engines import SOURCES, STEPS, FakeEngine, with_info

REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "", 0.4, 0, 0, "")


@pytest.fixture
def renderer(sd, source_images, tmp_path) -> Renderer:
    engine = LocalEngine(with_info(sd, guidance_scale=3.0, batch_size=4))
    return Renderer(engine, DiskStore(tmp_path), source_images)


@pytest.fixture
def requests(source_images) -> list[Request]:
    return [replace(REQUEST, source_id=s, r=r) for s in list(source_images)[:2] for r in (0.4, 0.8)]


def test_costs_add_up_and_the_smallest_batch_size_stays():
    first = Cost(5, 2, 3, 50, 30, 1.5, 16, 1)
    total = Cost(9, 5, 4, 90, 40, 1.0, 8, 2)
    assert first + total == Cost(14, 7, 7, 140, 70, 2.5, 8, 3)
    assert total + first == first + total


def test_cost_of_a_run_has_only_the_numbers_that_vary_between_runs():
    cost = Cost(5, 2, 3, 50, 30, 1.234, 16, 1)
    differs = cost.of_this_run()
    assert differs["seconds"] == 1.23
    assert {*differs} == {f.name for f in fields(Cost)} - {"needed", "guided_steps_needed"}
    assert json.loads(json.dumps(differs)) == differs
    assert cost.summary() == "3 rendered in 1 s, 2 taken from the store"


def test_each_image_is_rendered_once_and_counted(renderer, requests):
    twice = [*requests, requests[0], replace(requests[1], r=0.8000000000000001)]
    cost = renderer.ensure(twice, steps=5)
    assert astuple(cost)[:5] == (4, 0, 4, 2 * (2 + 4), 2 * (2 + 4))
    assert cost.batch_size == 4
    more = [*requests, replace(requests[0], replicate=1)]
    cost = renderer.ensure(more, steps=5)
    assert astuple(cost)[:5] == (5, 4, 1, 14, denoising_steps(0.4, 5))


def test_rendered_images_are_found_by_their_key(renderer, requests):
    renderer.ensure(requests[:1], steps=5)
    key, store = renderer.key(requests[0], 5), renderer.store
    assert store.png(key) == store_path(store.root, key).read_bytes()
    assert store.image(key).size == (32, 32)
    assert renderer.key(requests[0], 10) != key


def test_forecast_is_logged_unless_an_earlier_one_included_it(renderer, requests, caplog):
    with caplog.at_level(logging.INFO):
        renderer.ensure(requests[:1], steps=5, extra_steps=7)
        assert "1 to render in 2 guided steps, then about 7 for the chosen" in caplog.text
        caplog.clear()
        renderer.ensure(requests[1:2], steps=5, extra_steps=None)
        renderer.ensure(requests[:2], steps=5)  # nothing is missing
    assert "images needed" not in caplog.text


def test_progress_sees_each_batch_when_its_images_are_stored(tmp_path):
    seen = []

    def progress(items, label, *, total, unit="", weight=len, whole=False):
        assert (label, total, unit, whole) == ("generate", 7, "image", True)
        for item in items:
            seen.append((weight(item), len(list(tmp_path.glob("*/*.png")))))
            yield item

    engine = FakeEngine(batch_size=3)
    requests = [replace(FIRST, replicate=i) for i in range(7)]
    Renderer(engine, DiskStore(tmp_path), SOURCES, progress).ensure(requests, steps=STEPS)
    assert [weight for weight, _ in seen] == [1] * 7
    assert [stored for _, stored in seen] == [*range(1, 8)]
    assert engine.calls == [[3], [3], [1]]


def test_each_rendered_image_is_counted_with_its_guided_steps_and_no_found_one_is(
    renderer, requests
):
    cost = renderer.ensure(requests, steps=5)
    assert cost.guided_steps_rendered == sum([2, 2, 4, 4])
    cost = renderer.ensure(requests, steps=5)  # all are in the store
    assert (cost.guided_steps_needed, cost.guided_steps_rendered) == (12, 0)


def test_smallest_batch_size_is_in_the_cost(renderer, requests, sd):
    def tight(latents, *others):
        if len(latents) > 4:
            raise torch.cuda.OutOfMemoryError
        return sd.denoiser(latents, *others)

    small = LocalEngine(with_info(replace(sd, denoiser=tight), guidance_scale=3.0, batch_size=4))
    same = [replace(requests[0], replicate=i) for i in range(4)]
    assert replace(renderer, engine=small).ensure(same, steps=5).batch_size == 2


def test_unset_settings_are_those_of_the_model_and_the_device(tiny_sd_folder):
    def loaded(**settings):
        info = load_generator(tiny_sd_folder, RenderSettings(**settings), device="cpu").info
        return info.steps, info.guidance_scale, info.batch_size

    assert loaded() == (50, 7.5, 32)
    assert loaded(steps=8, guidance_scale=0.0, batch_size=3) == (8, 0.0, 3)
    assert loaded(batch_size="probe") == (50, 7.5, 32)  # until it is measured


def test_run_that_ends_between_batches_has_stored_all_batches_before(renderer, source_images):
    requests = [replace(REQUEST, source_id=source) for source in list(source_images)[:9]]
    finished = itertools.count(1)

    def progress(items, *_, **options):
        for item in items:
            yield item
            if next(finished) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(renderer, progress=progress).ensure(requests, steps=5)
    cost = renderer.ensure(requests, steps=5)
    assert (cost.found, cost.rendered) == (8, 1)


@pytest.mark.parametrize("at_once", [1, 99])
def test_only_claimed_requests_of_a_batch_are_rendered(at_once):
    claimed = []

    class Claiming(MemoryStore):
        """Another run renders the first request of each batch."""

        @contextmanager
        def filling(self, keys, *, at_once):
            with super().filling(keys, at_once=at_once) as filling:

                def claim(batch):
                    claimed.append(batch[1:])
                    filling.put([finished(batch[0])])
                    return batch[1:]

                yield Fills(filling.missing, claim, filling.put)

    class Fills:
        def __init__(self, missing, claim, put):
            self.missing, self.claim, self.put = missing, claim, put

    def finished(request):
        ((result,),) = FakeEngine().render([[request]], SOURCES, STEPS)
        return result

    engine = FakeEngine(batch_size=4, at_once=at_once)
    requests = [replace(FIRST, replicate=i) for i in range(10)]
    cost = Renderer(engine, Claiming(), SOURCES).ensure(requests, steps=STEPS)
    assert engine.rendered == [request for batch in claimed for request in batch]
    assert (cost.needed, cost.found, cost.rendered) == (10, 3, 7)


@pytest.mark.parametrize(
    ("at_once", "calls"), [(1, [[3], [3], [3], [1]]), (6, [[3, 3], [3, 1]]), (99, [[3, 3, 3, 1]])]
)
def test_an_engine_gets_as_many_batches_as_it_renders_at_once(at_once, calls):
    engine = FakeEngine(batch_size=3, at_once=at_once)
    requests = [replace(FIRST, replicate=i) for i in range(10)]
    Renderer(engine, MemoryStore(), SOURCES).ensure(requests, steps=STEPS)
    assert engine.calls == calls


def test_batches_of_a_model_that_starts_at_steps_only_have_one_number_of_steps_each():
    requests = [replace(FIRST, r=r, replicate=i) for r in (0.4, 0.8) for i in range(3)]
    mixed, apart = FakeEngine(batch_size=4), FakeEngine(batch_size=4, family="generic")
    for engine in (mixed, apart):
        Renderer(engine, MemoryStore(), SOURCES).ensure(requests, steps=STEPS)
    assert mixed.calls == [[4], [2]]
    assert apart.calls == [[3], [3]]
