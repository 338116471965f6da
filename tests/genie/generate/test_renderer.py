import logging
from dataclasses import astuple, replace

import pytest

from genie.generate.noise import denoising_steps
from genie.generate.renderer import Cost, Renderer, load_renderer
from genie.generate.request import Request
from genie.generate.store import store_path

REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "", 0.4, 0, 0, "")


@pytest.fixture
def renderer(sd, source_images, tmp_path) -> Renderer:
    return Renderer(sd, 5, 3.0, 4, source_images, tmp_path)


@pytest.fixture
def requests(source_images) -> list[Request]:
    return [replace(REQUEST, source_id=s, r=r) for s in list(source_images)[:2] for r in (0.4, 0.8)]


def test_costs_add_up_and_the_smallest_batch_size_stays():
    first = Cost(5, 2, 3, 50, 30, 1.5, 16, 1)
    total = Cost(9, 5, 4, 90, 40, 1.0, 8, 2)
    assert first + total == Cost(14, 7, 7, 140, 70, 2.5, 8, 3)
    assert total + first == first + total


def test_each_image_is_rendered_once_and_counted(renderer, requests):
    again = [*requests, requests[0], replace(requests[1], r=0.8000000000000001)]
    cost = renderer.ensure(again, steps=5)
    assert astuple(cost)[:5] == (4, 0, 4, 2 * (2 + 4), 2 * (2 + 4))
    assert cost.batch_size == 4
    more = [*requests, replace(requests[0], replicate=1)]
    cost = renderer.ensure(more, steps=5)
    assert astuple(cost)[:5] == (5, 4, 1, 14, denoising_steps(0.4, 5))


def test_rendered_images_are_found_by_their_key(renderer, requests):
    renderer.ensure(requests[:1], steps=5)
    key = renderer.key(requests[0], 5)
    assert renderer.png(key) == store_path(renderer.store, key).read_bytes()
    assert renderer.picture(key).size == (32, 32)
    assert renderer.key(requests[0], 10) != key


def test_work_ahead_is_announced_unless_it_was_before(renderer, requests, caplog):
    with caplog.at_level(logging.INFO):
        renderer.ensure(requests[:1], steps=5, later=7)
        assert "1 to render in 2 guided steps, then about 7 for the chosen" in caplog.text
        caplog.clear()
        renderer.ensure(requests[1:2], steps=5, later=None)
        renderer.ensure(requests[:2], steps=5)  # nothing is missing
    assert "images needed" not in caplog.text


def test_images_are_watched_as_they_come(renderer, requests):
    seen = []

    def watch(images, total):
        for request, image in images:
            seen.append((request, total))
            yield request, image

    replace(renderer, watch=watch).ensure(requests[:3], steps=5)
    assert sorted(seen, key=repr) == sorted(((q, 3) for q in requests[:3]), key=repr)


def test_each_rendered_image_is_reported_with_its_guided_steps(renderer, requests):
    steps: list[int] = []
    told = replace(renderer, on_image=steps.append)
    cost = told.ensure(requests, steps=5)
    assert sorted(steps) == [2, 2, 4, 4]
    assert sum(steps) == cost.guided_steps_rendered
    told.ensure(requests, steps=5)  # all are in the store
    assert len(steps) == 4


def test_smallest_batch_size_is_noted(renderer, requests, sd):
    import torch

    def tight(latents, *others):
        if len(latents) > 4:
            raise torch.cuda.OutOfMemoryError
        return sd.denoiser(latents, *others)

    small = replace(renderer, generator=replace(sd, denoiser=tight))
    same = [replace(requests[0], replicate=i) for i in range(4)]
    assert small.ensure(same, steps=5).batch_size == 2


def test_unset_options_are_those_of_the_model_and_the_device(tiny_sd_folder, tmp_path, monkeypatch):
    loaded = load_renderer(tiny_sd_folder, sources={}, store=tmp_path)
    assert (loaded.steps, loaded.guidance_scale, loaded.batch_size) == (50, 7.5, 32)
    given = load_renderer(
        tiny_sd_folder, sources={}, store=tmp_path, steps=8, guidance_scale=0.0, batch_size=3
    )
    assert (given.steps, given.guidance_scale, given.batch_size) == (8, 0.0, 3)
    monkeypatch.setattr("genie.generate.renderer.fastest_batch_size", lambda *a, **k: 64)
    probed = load_renderer(tiny_sd_folder, sources={}, store=tmp_path, batch_size="probe")
    assert probed.batch_size == 64


def test_run_that_ends_before_a_batch_has_stored_all_batches_before_it(renderer, source_images):
    requests = [replace(REQUEST, source_id=source) for source in list(source_images)[:9]]
    begun = []

    def before_batch():
        begun.append(len(list(renderer.store.glob("*/*.png"))))
        if len(begun) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(renderer, before_batch=before_batch).ensure(requests, steps=5)
    cost = renderer.ensure(requests, steps=5)
    assert (cost.found, cost.rendered) == (8, 1)
