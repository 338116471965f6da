import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genie import rendering as module
from genie.errors import GenieError
from genie.generator import load_generator
from genie.noise import denoising_steps, initial_noise, strength
from genie.records import Request, decode_png, encode_png
from genie.rendering import render, request_key

STEPS = 10


@pytest.fixture(scope="module")
def sd(tiny_sd_folder):
    return load_generator(tiny_sd_folder, device="cpu")


def request_for(source_id, r=0.7, target="coat", replicate=0, **changes):
    values = {
        "source_id": source_id,
        "source_label": None if source_id is None else "shirt",
        "target_label": target,
        "prompt": f"a photo of a {target}",
        "negative_prompt": "blurry",
        "r": r,
        "replicate": replicate,
        "seed": 0,
    }
    return Request(**(values | changes))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def rendered(requests, generator, sources, **options):
    options = {"steps": STEPS, "guidance_scale": 3.0, "batch_size": 4} | options
    images = dict(render(requests, generator, sources=sources, **options))
    assert len(images) == len(set(requests))
    return images


def diffusers_image(pipeline, request, sources):
    """The same request through diffusers' own pipeline: same latents, noise and prompts."""
    noise = initial_noise(request, (4, 8, 8))
    preprocessed = pipeline.image_processor.preprocess([decode_png(sources[request.source_id])])
    with torch.no_grad():
        mode = pipeline.vae.encode(preprocessed).latent_dist.mode()

    class SameNoise(DPMSolverMultistepScheduler):
        def add_noise(self, original, _, timesteps):
            return super().add_noise(original, noise[None], timesteps)

    pipeline.scheduler = SameNoise.from_config(
        pipeline.scheduler.config, timestep_spacing="linspace"
    )
    if 10 * request.r == pytest.approx(round(10 * request.r)):
        steps = {"strength": strength(request.r, STEPS), "num_inference_steps": STEPS}
    else:  # r lies between two steps: as many of them from r itself
        k = denoising_steps(request.r, STEPS)
        steps = {"timesteps": [round(999 * request.r * (k - i) / k) for i in range(k)]}
        steps |= {"strength": 1.0, "num_inference_steps": k}
    return pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        image=mode * pipeline.vae.config.scaling_factor,
        guidance_scale=3.0,
        **steps,
    ).images[0]


def test_images_equal_those_of_diffusers_own_pipeline(sd, tiny_sd_folder, source_images):
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(tiny_sd_folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    requests = [
        request_for(source, r=r, target=target)
        for source in list(source_images)[:1]
        for r in (0.05, 0.3, 0.54, 0.58, 0.7, 1.0)
        for target in ("coat", "sandal")
    ]
    for request, image in rendered(requests, sd, source_images).items():
        expected = diffusers_image(pipeline, request, source_images)
        assert np.abs(pixels(image) - pixels(expected)).max() <= 1, request


def test_rendering_changes_with_prompt_and_source_and_noise(sd, source_images):
    first, second = list(source_images)[:2]
    base = request_for(first)
    others = [
        request_for(second),
        request_for(first, prompt="a photo of a bag"),
        request_for(first, replicate=1),
        request_for(first, r=0.9),
        request_for(first, negative_prompt=""),
    ]
    images = rendered([base, *others], sd, source_images, guidance_scale=7.5)
    for other in others:
        assert np.abs(pixels(images[base]) - pixels(images[other])).max() > 0, other


def test_image_is_bitwise_the_same_whatever_its_neighbours_and_order(sd, source_images):
    requests = [
        request_for(source, r=r, target=target)
        for source in source_images
        for r in (0.5, 0.7)
        for target in ("coat", "bag")
    ]
    together = rendered(requests, sd, source_images)
    shuffled = random.Random(1).sample(requests, len(requests))
    again = rendered(shuffled[:17], sd, source_images)
    for request in shuffled[:17]:
        assert again[request].tobytes() == together[request].tobytes()
    alone = rendered([requests[5]], sd, source_images)
    assert alone[requests[5]].tobytes() == together[requests[5]].tobytes()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batch_size_changes_no_pixel_by_more_than_two(sd, source_images, batch_size):
    requests = [request_for(source, r=0.9) for source in source_images]
    expected = rendered(requests, sd, source_images)
    for request, image in rendered(requests, sd, source_images, batch_size=batch_size).items():
        assert np.abs(pixels(image) - pixels(expected[request])).max() <= 2


def test_every_source_and_prompt_is_encoded_once(sd, source_images, monkeypatch):
    encoded, prompts = [], []
    encode_sources = module._FastPath._encode_sources
    encode_prompt = module._FastPath._encode_prompt
    monkeypatch.setattr(
        module._FastPath,
        "_encode_sources",
        lambda self, names: encoded.extend(names) or encode_sources(self, names),
    )
    monkeypatch.setattr(
        module._FastPath,
        "_encode_prompt",
        lambda self, text: prompts.append(text) or encode_prompt(self, text),
    )
    requests = [
        request_for(source, r=r, target=target)
        for source in source_images
        for r in (0.3, 0.5, 0.7)
        for target in ("coat", "bag")
    ]
    rendered(requests, sd, source_images)
    assert sorted(encoded) == sorted(source_images)
    assert sorted(prompts) == ["a photo of a bag", "a photo of a coat", "blurry"]


def test_more_sources_than_a_window_are_each_encoded_once(sd, source_images, monkeypatch):
    monkeypatch.setattr(module, "_WINDOW", 5)
    encoded = []
    encode_sources = module._FastPath._encode_sources
    monkeypatch.setattr(
        module._FastPath,
        "_encode_sources",
        lambda self, names: encoded.extend(names) or encode_sources(self, names),
    )
    requests = [request_for(source, r=r) for r in (0.3, 0.5, 0.7) for source in source_images]
    rendered(requests, sd, source_images)
    assert sorted(encoded) == sorted(source_images)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_denoiser_runs_k_times_and_twice_as_wide_only_under_guidance(
    sd, source_images, guidance_scale
):
    widths = []
    counted = replace(sd, denoiser=lambda x, *a: widths.append(len(x)) or sd.denoiser(x, *a))
    source = next(iter(source_images))
    rendered([request_for(source, r=0.3)], counted, source_images, guidance_scale=guidance_scale)
    assert widths == [1 if guidance_scale == 1 else 2] * 3


def test_levels_with_less_than_a_batch_share_the_steps_of_the_highest(sd, source_images):
    taken = []
    counted = replace(sd, denoiser=lambda x, *a: taken.append(len(x)) or sd.denoiser(x, *a))
    names = list(source_images)
    requests = [request_for(n, r=r) for r in (0.3, 0.5, 0.7) for n in names[:5]]
    requests.append(request_for(None, r=1.0))
    shared = rendered(requests, counted, source_images, batch_size=4)
    # 4 images at r = 0.7, 0.5 and 0.3 each, then the remaining ones with the one from pure noise
    # join in one by one, in calls of a quarter; always twice as wide under guidance
    assert taken == [2 * 4] * (7 + 5 + 3) + [2] * (3 * 1 + 2 * 2 + 2 * 3) + [2 * 4] * 3
    for request in requests:
        alone = rendered([request], sd, source_images, batch_size=4)
        assert alone[request].tobytes() == shared[request].tobytes()


@given(
    size=st.integers(1, 40),
    share=st.floats(0, 1),
    guidance_scale=st.sampled_from([1.0, 3.0]),
)
def test_denoiser_sees_three_shapes_and_little_padding(sd, size, share, guidance_scale):
    widths = []

    def denoiser(latents, timesteps, embeddings):
        widths.append(len(latents))
        return latents * timesteps.view(-1, 1, 1, 1) + embeddings.mean(dim=(1, 2)).view(-1, 1, 1, 1)

    count = max(1, round(share * size))
    latents, timesteps = torch.randn(count, 4, 2, 2), torch.arange(count)
    embeddings = torch.randn(1 if guidance_scale == 1 else 2, count, 3, 5)
    path = module._FastPath(replace(sd, denoiser=denoiser), {}, STEPS, guidance_scale)
    predicted = path._predict(latents, timesteps, embeddings, size)
    for i in range(count):
        clean = latents[i] * i
        negative, positive = (clean + half[i].mean() for half in embeddings[[0, -1]])
        expected = negative + guidance_scale * (positive - negative)
        torch.testing.assert_close(predicted[i], expected)
    sizes = [n for n in (size, size // 4, size // 16) if n]
    images = [width // len(embeddings) for width in widths]
    assert set(images) <= set(sizes)
    assert 0 <= sum(images) - count < sizes[-1]


@pytest.mark.parametrize("steps", [10, 20, 25, 50, 100])
def test_start_timestep_is_within_one_of_the_authors(sd, steps):
    scheduler = module.dpm_solver(sd.pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    for k in range(1, steps + 1):
        assert abs(int(scheduler.timesteps[steps - k]) - 1000 * k / steps) <= 1


def test_text_to_image_starts_from_pure_noise(sd, source_images):
    texts = [request_for(None, r=1.0, replicate=i) for i in range(3)]
    mixed = [*texts, request_for(next(iter(source_images)), r=1.0)]
    images = rendered(mixed, sd, source_images)
    alone = rendered(texts, sd, {})
    assert all(images[q].tobytes() == alone[q].tobytes() for q in texts)
    assert len({images[q].tobytes() for q in mixed}) == 4


def test_source_of_another_size_is_fitted(sd, source_images):
    image_id, png = next(iter(source_images.items()))
    large = decode_png(png).resize((64, 48))
    images = rendered([request_for(image_id)], sd, {image_id: encode_png(large)})
    assert next(iter(images.values())).size == (32, 32)


def test_unknown_source_is_an_error(sd):
    with pytest.raises(GenieError, match="must be in the support set, nowhere"):
        list(render([request_for("nowhere")], sd, sources={}, steps=STEPS))


def test_out_of_memory_halves_the_batch(sd, source_images, monkeypatch, caplog):
    call = module._FastPath.__call__

    def tight(self, batch, size):
        if size > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return call(self, batch, size)

    requests = [request_for(source) for source in source_images]
    expected = rendered(requests, sd, source_images, batch_size=2)
    monkeypatch.setattr(module._FastPath, "__call__", tight)
    told = []
    images = rendered(requests, sd, source_images, batch_size=8, halved=told.append)
    assert told == [4, 2]
    assert all(images[q].tobytes() == expected[q].tobytes() for q in requests)
    assert "going on with 4" in caplog.text
    assert "going on with 2" in caplog.text


def test_out_of_memory_with_one_image_is_an_error(sd, source_images, monkeypatch):
    def full(self, batch, size):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module._FastPath, "__call__", full)
    with pytest.raises(GenieError, match="one image at a time"):
        rendered([request_for(next(iter(source_images)))], sd, source_images, batch_size=2)


@pytest.mark.parametrize(
    ("speeds", "size"),
    [
        ({8: 10, 16: 10}, 8),
        ({8: 10, 16: 20, 32: 20.5}, 16),
        ({8: 10, 16: 20, 32: 40, 64: 80, 128: 30}, 64),
    ],
)
def test_fastest_batch_size_is_doubled_while_that_gains(sd, monkeypatch, speeds, size):
    def measured(generator, guidance_scale, batch_size):
        return module.Speed(speeds[batch_size], 0)

    monkeypatch.setattr(module, "measure_speed", measured)
    assert module.default_batch_size(sd) == 32
    assert module.fastest_batch_size(sd) == size


OTHERS = ["tiny_sdxl_folder", "tiny_sd3_folder", "tiny_lcm_folder", "tiny_turbo_folder"]


@pytest.mark.parametrize("folder", OTHERS)
def test_other_pipelines_render_by_their_folder(folder, source_images, request):
    generator = load_generator(request.getfixturevalue(folder), device="cpu")
    assert not generator.fast
    assert generator.size == 32
    first, second = list(source_images)[:2]
    requests = [
        request_for(first, r=0.3),
        request_for(second, r=0.3),
        request_for(first, r=0.7),
        request_for(first, r=0.7, replicate=1),
        request_for(None, r=1.0),
    ]
    images = rendered(requests, generator, source_images, batch_size=2)
    assert all(image.size == (32, 32) for image in images.values())
    assert len({image.tobytes() for image in images.values()}) == len(requests)
    again = rendered(requests[:1], generator, source_images, batch_size=2)
    assert again[requests[0]].tobytes() == images[requests[0]].tobytes()


@pytest.mark.parametrize("folder", OTHERS)
@pytest.mark.parametrize("steps", [2, 4, 8, STEPS])
@pytest.mark.parametrize("r", [0.1, 0.3, 0.58, 0.7, 1.0])
def test_other_pipelines_denoise_exactly_k_steps(
    folder, steps, r, source_images, request, monkeypatch
):
    generator = load_generator(request.getfixturevalue(folder), device="cpu")
    name = "unet" if hasattr(generator.pipeline, "unet") else "transformer"
    denoiser = getattr(generator.pipeline, name)
    forward, calls = denoiser.forward, []
    monkeypatch.setattr(denoiser, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    wanted = [request_for(next(iter(source_images)), r=r)]
    rendered(wanted, generator, source_images, batch_size=1, steps=steps)
    assert len(calls) == denoising_steps(r, steps)


@pytest.mark.parametrize("r", [0.25, 0.5, 0.75, 1.0])
def test_consistency_model_starts_where_r_says(tiny_lcm_folder, r, source_images, monkeypatch):
    generator = load_generator(tiny_lcm_folder, device="cpu")
    forward, seen = generator.pipeline.unet.forward, []
    monkeypatch.setattr(
        generator.pipeline.unet,
        "forward",
        lambda latents, t, **k: seen.append(int(t)) or forward(latents, t, **k),
    )
    wanted = [request_for(next(iter(source_images)), r=r)]
    rendered(wanted, generator, source_images, batch_size=1, steps=8)
    assert seen[0] == pytest.approx(1000 * r, abs=20)
    assert seen == sorted(seen, reverse=True)


def test_key_is_of_what_decides_the_pixels(sd):
    def key(request=None, generator=sd, steps=50, guidance_scale=3.0):
        request = request or request_for("a")
        return request_key(request, generator, steps=steps, guidance_scale=guidance_scale)

    assert key() == key(request_for("a", r=0.7000000000000001))
    assert key() == key(request_for("a", source_label="another name"))
    assert key() == key(guidance_scale=3)
    different = [
        key(request_for("b")),
        key(request_for(None)),
        key(request_for("a", r=0.72)),
        key(request_for("a", prompt="a photo of a bag")),
        key(request_for("a", negative_prompt="")),
        key(request_for("a", target="coat ", prompt="a photo of a coat")),
        key(request_for("a", replicate=1)),
        key(request_for("a", seed=1)),
        key(request_for("a", r=0.66), steps=5),
        key(request_for("a", r=0.68), steps=5),
        key(steps=100),
        key(guidance_scale=7.5),
    ]
    assert len({key(), *different}) == 1 + len(different)


@pytest.mark.parametrize(("guidance", "warned"), [(1.0, True), (3.0, False)])
def test_negative_prompt_without_guidance_is_warned_of(sd, source_images, caplog, guidance, warned):
    wanted = request_for(next(iter(source_images)))
    rendered([wanted], sd, source_images, guidance_scale=guidance)
    assert ("negative prompts have no effect" in caplog.text) == warned
