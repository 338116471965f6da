"""The engine of this process: batches, memory, and images that half precision spoils."""

import logging
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from genie.core.errors import FailedError, InvalidValueError
from genie.data.images import decode_image, is_blank
from genie.plan.requests import Request
from genie.render import model
from genie.render.engine import LocalEngine, Rendered
from genie.render.loop import Renderer, require_sources
from genie.render.model import load_generator
from genie.render.model_info import RenderSettings
from genie.render.store import MemoryStore
from tests.genie.render.engines import STEPS, rendered, results_of, with_info

REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "blurry", 0.7, 0, 0, "")


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_image_is_bitwise_the_same_whatever_its_neighbours_and_order(sd, source_images):
    requests = [
        replace(REQUEST, source_id=source, r=r, target_label=target, prompt=f"a photo of {target}")
        for source in source_images
        for r in (0.5, 0.7)
        for target in ("coat", "bag")
    ]
    together = rendered(requests, sd, source_images)
    shuffled = random.Random(1).sample(requests, 17)
    apart = rendered(shuffled, sd, source_images)
    for request in shuffled:
        assert apart[request].tobytes() == together[request].tobytes()
    alone = rendered([requests[5]], sd, source_images)
    assert alone[requests[5]].tobytes() == together[requests[5]].tobytes()


def test_an_image_alone_is_the_same_image_in_a_batch_of_16(sd, source_images):
    requests = [
        replace(REQUEST, source_id=source, r=r) for source in source_images for r in (0.5, 0.7)
    ][:16]
    together = rendered(requests, sd, source_images, batch_size=16)
    for request in requests:
        alone = rendered([request], sd, source_images, batch_size=16)[request]
        assert alone.tobytes() == together[request].tobytes()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batch_size_changes_no_pixel_by_more_than_two(sd, source_images, batch_size):
    requests = [replace(REQUEST, source_id=source, r=0.9) for source in source_images]
    expected = rendered(requests, sd, source_images)
    for request, image in rendered(requests, sd, source_images, batch_size=batch_size).items():
        assert np.abs(pixels(image) - pixels(expected[request])).max() <= 2


def test_results_carry_the_facts_of_their_rendering(sd, source_images):
    requests = [replace(REQUEST, source_id=next(iter(source_images)), r=r) for r in (0.4, 1.0)]
    results = results_of(requests, sd, source_images, batch_size=4)
    assert [results[request].guided_steps for request in requests] == [2, 5]
    assert {result.batch_size for result in results.values()} == {4}
    assert not any(result.in_float32 for result in results.values())


def test_an_empty_batch_renders_nothing(sd):
    assert list(LocalEngine(sd).render([[]], {}, STEPS)) == []


def test_default_batch_size_falls_with_the_size_of_the_latents():
    def sizes(device: str, sides: tuple[int, ...]) -> list[int]:
        return [model._batch_size(RenderSettings(), side, device) for side in sides]

    assert sizes("cpu", (4, 8, 16, 32)) == [32, 32, 16, 2]
    assert sizes("cuda", (8, 32, 64, 128)) == [256, 32, 32, 8]


@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_below_one_is_an_error(tiny_sd_folder, size):
    with pytest.raises(InvalidValueError, match=f"batch_size must be at least 1, got {size}"):
        load_generator(tiny_sd_folder, RenderSettings(batch_size=size), device="cpu")


def test_unknown_source_is_an_error_that_names_it_before_anything_is_rendered(sd, monkeypatch):
    monkeypatch.setattr(LocalEngine, "render", lambda *_: pytest.fail("rendered"))
    unknown = replace(REQUEST, source_id="nowhere")
    with pytest.raises(InvalidValueError, match=r"support set, but nowhere \(shirt\)") as error:
        Renderer(LocalEngine(sd), MemoryStore(), {}).ensure([unknown], steps=STEPS)
    assert "run `dvc repro` from prepare" in error.value.remedy


def test_an_image_from_the_prompt_alone_needs_no_source():
    require_sources([replace(REQUEST, source_id=None, source_label=None)], {})


def with_memory_for(images, sd):
    """The model on a device whose memory suffices for so many images, two halves each."""

    def denoiser(latents, timesteps, embeddings):
        if len(latents) > 2 * images:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return sd.denoiser(latents, timesteps, embeddings)

    return replace(sd, denoiser=denoiser)


def sizes_of(results: dict[Request, Rendered]) -> list[int]:
    return sorted({result.batch_size for result in results.values()})


def test_out_of_memory_halves_the_batch(sd, source_images, caplog):
    requests = [replace(REQUEST, source_id=source) for source in source_images]
    expected = results_of(requests, sd, source_images, batch_size=2)
    results = results_of(requests, with_memory_for(2, sd), source_images, batch_size=8)
    assert sizes_of(results) == [2]
    assert all(results[q].png == expected[q].png for q in requests)
    halvings = [line for line in caplog.messages if "out of memory" in line]
    assert ["continuing with 4" in line for line in halvings] == [True, False]
    assert ["continuing with 2" in line for line in halvings] == [False, True]


def test_a_halved_batch_size_stays_for_later_calls_and_its_images_are_the_same(
    sd, source_images, caplog
):
    requests = [replace(REQUEST, source_id=source) for source in list(source_images)[:4]]
    engine = LocalEngine(with_info(with_memory_for(2, sd), batch_size=4))
    first = [part for _ in range(2) for part in engine.render([requests], source_images, STEPS)]
    assert [len(part) for part in first] == [2, 2, 2, 2]
    assert [result.png for part in first[:2] for result in part] == [
        result.png for part in first[2:] for result in part
    ]
    assert caplog.text.count("out of memory") == 1


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")],
)
def test_out_of_memory_on_the_host_halves_the_batch_too(sd, source_images, error, caplog):
    def denoiser(latents, timesteps, embeddings):
        if len(latents) > 4:
            raise error
        return sd.denoiser(latents, timesteps, embeddings)

    requests = [replace(REQUEST, source_id=source) for source in source_images]
    results = results_of(requests, replace(sd, denoiser=denoiser), source_images, batch_size=8)
    assert sizes_of(results) == [2]
    assert caplog.text.count("out of memory") == 2
    assert set(results) == set(requests)


def test_other_errors_of_the_device_are_not_taken_for_a_lack_of_memory(sd, source_images):
    def denoiser(latents, timesteps, embeddings):
        raise RuntimeError("the device is gone")

    requests = [replace(REQUEST, source_id=next(iter(source_images)))]
    with pytest.raises(RuntimeError, match="the device is gone"):
        rendered(requests, replace(sd, denoiser=denoiser), source_images, batch_size=8)


def test_out_of_memory_with_one_image_is_an_error(sd, source_images):
    requests = [replace(REQUEST, source_id=next(iter(source_images)))]
    with pytest.raises(FailedError, match=r"one image at a time.*; use a machine with more memory"):
        rendered(requests, with_memory_for(0, sd), source_images, batch_size=2)


@pytest.mark.parametrize(("guidance", "warned"), [(1.0, True), (3.0, False)])
def test_negative_prompt_without_guidance_gives_a_warning(
    tiny_sd_folder, source_images, caplog, guidance, warned
):
    generator = load_generator(
        tiny_sd_folder, RenderSettings(guidance_scale=guidance, batch_size=1), device="cpu"
    )
    assert generator.info.heeds_negative != warned
    request = replace(REQUEST, source_id=next(iter(source_images)))
    renderer = Renderer(LocalEngine(generator), MemoryStore(), source_images)
    renderer.ensure([replace(request, negative_prompt="", replicate=1)], steps=2)
    assert "negative prompts" not in caplog.text
    renderer.ensure([request], steps=2)
    assert ("negative prompts have no effect" in caplog.text) == warned


def in_bfloat16(folder):
    settings = RenderSettings(compile=False, dtype="bfloat16", guidance_scale=3.0, batch_size=4)
    return load_generator(folder, settings, device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_image_spoiled_by_half_precision_is_rendered_again_in_float32_and_marked(
    tiny_sd_folder, source_images, value, caplog
):
    half = in_bfloat16(tiny_sd_folder)
    weights = {k: v.clone() for k, v in half.pipeline.unet.state_dict().items()}
    requests = [replace(REQUEST, source_id=source) for source in list(source_images)[:4]]
    plain = results_of(requests, half, source_images)

    def denoiser(latents, timesteps, embeddings):
        predicted = half.denoiser(latents, timesteps, embeddings)
        predicted[1] = value  # of the first half without guidance and the second with it
        return predicted

    results = results_of(requests, replace(half, denoiser=denoiser), source_images)
    (spoiled,) = [request for request, result in results.items() if result.in_float32]
    exact = load_generator(tiny_sd_folder, RenderSettings(compile=False), device="cpu")
    expected = np.asarray(rendered([spoiled], exact, source_images)[spoiled], float)
    image = decode_image(results[spoiled].png)
    assert np.abs(np.asarray(image, float) - expected).mean() < 6
    assert not is_blank(image)
    for request in requests:
        if request != spoiled:
            assert results[request].png == plain[request].png
    assert "rendered again in float32" in caplog.text
    after = half.pipeline.unet.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in weights.items())


def test_images_rendered_again_in_float32_are_counted_in_the_cost(tiny_sd_folder, source_images):
    half = in_bfloat16(tiny_sd_folder)

    def denoiser(latents, timesteps, embeddings):
        return torch.full_like(half.denoiser(latents, timesteps, embeddings), torch.nan)

    requests = [replace(REQUEST, source_id=source) for source in list(source_images)[:3]]
    engine = LocalEngine(replace(half, denoiser=denoiser))
    cost = Renderer(engine, MemoryStore(), source_images).ensure(requests, steps=2)
    assert (cost.rendered, cost.in_float32) == (3, 3)


def test_black_image_in_float32_is_not_rendered_again(sd, source_images, caplog):
    def denoiser(latents, timesteps, embeddings):
        return torch.full_like(latents, torch.nan)

    request = replace(REQUEST, source_id=next(iter(source_images)))
    with caplog.at_level(logging.WARNING):
        results = results_of([request], replace(sd, denoiser=denoiser), source_images)
    assert is_blank(decode_image(results[request].png))
    assert not results[request].in_float32
    assert "float32" not in caplog.text


@pytest.mark.parametrize("change", ["other pixels", "no image"])
def test_source_whose_pixels_changed_is_an_error_that_names_it(sd, source_images, change):
    first, second = list(source_images)[:2]
    png = source_images[second] if change == "other pixels" else source_images[first][:50]
    request = replace(REQUEST, source_id=first)
    with pytest.raises(InvalidValueError, match=f"source image {first} .* damaged; run `dvc repro"):
        rendered([request], sd, source_images | {first: png})
