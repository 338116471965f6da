"""Stable Diffusion against diffusers' own pipeline, and how often each part of it is called."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from genie.data.images import decode_image, encode_png, image_id
from genie.plan.levels import denoising_steps, strength
from genie.plan.requests import Request
from genie.render.model import dpm_solver, load_generator
from genie.render.model_info import GENERIC, STABLE_DIFFUSION
from genie.render.noise import initial_noise
from tests.genie.render import engines

STEPS = 10


def request_for(source_id, r=0.7, target="coat", replicate=0, **changes):
    label = None if source_id is None else "shirt"
    request = Request(
        source_id, label, target, f"a photo of a {target}", "blurry", r, replicate, 0, ""
    )
    return replace(request, **changes)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def rendered(requests, generator, sources, **options):
    return engines.rendered(requests, generator, sources, **({"steps": STEPS} | options))


def diffusers_image(pipeline, request, sources):
    """The same request through diffusers' own pipeline: same latents, noise and prompts."""
    noise = initial_noise(request, (4, 8, 8))
    preprocessed = pipeline.image_processor.preprocess([decode_image(sources[request.source_id])])
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
    source = next(iter(source_images))
    requests = [
        request_for(source, r=r, target=target)
        for r in (0.05, 0.3, 0.54, 0.58, 0.7, 1.0)
        for target in ("coat", "sandal")
    ]
    for request, image in rendered(requests, sd, source_images).items():
        expected = diffusers_image(pipeline, request, source_images)
        assert np.abs(pixels(image) - pixels(expected)).max() <= 1, request


def test_latents_of_any_depth_and_velocities_give_the_images_of_diffusers(tiny_velocity_folder):
    generator = load_generator(tiny_velocity_folder, device="cpu")
    assert generator.info.family == STABLE_DIFFUSION
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_velocity_folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="linspace"
    )
    request = request_for(None, r=1.0)
    (image,) = rendered([request], generator, {}).values()
    expected = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        latents=initial_noise(request, (8, 8, 8))[None],
        guidance_scale=3.0,
        num_inference_steps=STEPS,
    ).images[0]
    assert np.abs(pixels(image) - pixels(expected)).max() <= 1


def test_model_whose_denoiser_takes_more_than_the_latents_is_called_as_it_is(
    tiny_sd_folder, tmp_path
):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd_folder, safety_checker=None)
    pipeline.unet = UNet2DConditionModel.from_config(pipeline.unet.config, in_channels=8)
    pipeline.save_pretrained(tmp_path, safe_serialization=True)
    assert load_generator(tmp_path, device="cpu").info.family == GENERIC


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


def distinct(batch: torch.Tensor) -> set[bytes]:
    """The rows of a batch, each once: the last may be repeated."""
    return {row.numpy().tobytes() for row in batch}


def test_every_source_and_prompt_is_encoded_once(sd, source_images, inputs_of):
    requests = [
        request_for(source, r=r, target=target)
        for source in source_images
        for r in (0.3, 0.5, 0.7)
        for target in ("coat", "bag")
    ]
    with inputs_of(sd.pipeline.vae.encoder) as images, inputs_of(sd.pipeline.text_encoder) as texts:
        rendered(requests, sd, source_images)
    assert sum(len(distinct(batch)) for batch in images) == len(source_images)
    assert len(set().union(*map(distinct, images))) == len(source_images)
    assert [len(batch) for batch in texts] == [1] * 3  # two prompts and the negative one
    assert len(set().union(*map(distinct, texts))) == 3


def test_more_sources_than_a_window_are_each_encoded_once(
    sd, source_images, inputs_of, monkeypatch
):
    for module in ("batches", "stable_diffusion"):
        monkeypatch.setattr(f"genie.render.{module}.WINDOW", 5)
    requests = [request_for(source, r=r) for r in (0.3, 0.5, 0.7) for source in source_images]
    with inputs_of(sd.pipeline.vae.encoder) as images:
        rendered(requests, sd, source_images)
    assert sum(len(distinct(batch)) for batch in images) == len(source_images)


def counted(sd, calls):
    """The model with a denoiser that records how wide its calls are."""
    return replace(sd, denoiser=lambda x, *a: calls.append(len(x)) or sd.denoiser(x, *a))


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_denoiser_runs_k_times_and_twice_as_wide_only_under_guidance(
    sd, source_images, guidance_scale
):
    calls = []
    source = next(iter(source_images))
    rendered(
        [request_for(source, r=0.3)], counted(sd, calls), source_images,
        guidance_scale=guidance_scale,
    )  # fmt: skip
    assert calls == [1 if guidance_scale == 1 else 2] * 3


def test_levels_with_less_than_a_batch_share_the_steps_of_the_highest(sd, source_images):
    calls = []
    names = list(source_images)
    requests = [request_for(n, r=r) for r in (0.3, 0.5, 0.7) for n in names[:5]]
    requests.append(request_for(None, r=1.0))
    shared = rendered(requests, counted(sd, calls), source_images)
    # 4 images at r = 0.7, 0.5 and 0.3 each, then the remaining ones with the one from pure noise
    # join in one by one, in calls of a quarter; always twice as wide under guidance
    assert calls == [2 * 4] * (7 + 5 + 3) + [2] * (3 * 1 + 2 * 2 + 2 * 3) + [2 * 4] * 3
    for request in requests:
        alone = rendered([request], sd, source_images)
        assert alone[request].tobytes() == shared[request].tobytes()


@pytest.mark.parametrize("steps", [10, 20, 25, 50, 100])
def test_start_timestep_is_within_one_of_the_authors(sd, steps):
    scheduler = dpm_solver(sd.pipeline.scheduler.config)
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
    large = decode_image(next(iter(source_images.values()))).resize((64, 48))
    name = image_id(large)
    images = rendered([request_for(name)], sd, {name: encode_png(large)})
    assert next(iter(images.values())).size == (32, 32)
