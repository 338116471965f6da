import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from genie.data.images import is_blank
from genie.errors import GenieError
from genie.generate.model import load_generator
from genie.generate.render import default_batch_size, render
from genie.generate.request import Request

STEPS = 5
REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "blurry", 0.7, 0, 0, "")


def rendered(requests, generator, sources, **options):
    options = {"steps": STEPS, "guidance_scale": 3.0, "batch_size": 4} | options
    images = dict(render(requests, generator, sources=sources, **options))
    assert len(images) == len(set(requests))
    return images


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
    again = rendered(shuffled, sd, source_images)
    for request in shuffled:
        assert again[request].tobytes() == together[request].tobytes()
    alone = rendered([requests[5]], sd, source_images)
    assert alone[requests[5]].tobytes() == together[requests[5]].tobytes()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batch_size_changes_no_pixel_by_more_than_two(sd, source_images, batch_size):
    requests = [replace(REQUEST, source_id=source, r=0.9) for source in source_images]
    expected = rendered(requests, sd, source_images)
    for request, image in rendered(requests, sd, source_images, batch_size=batch_size).items():
        assert np.abs(pixels(image) - pixels(expected[request])).max() <= 2


def test_default_batch_size_falls_with_the_size_of_the_latents(sd):
    sizes = [default_batch_size(replace(sd, size=side)) for side in (32, 64, 128)]
    assert sizes == [32, 16, 2]
    sizes = [default_batch_size(replace(sd, size=side, device="cuda")) for side in (64, 256, 512)]
    assert sizes == [256, 32, 8]


def test_batch_size_of_zero_is_an_error(sd):
    with pytest.raises(GenieError, match="batch_size must be at least 1, got -1"):
        list(render([], sd, sources={}, steps=STEPS, batch_size=-1))


def test_unknown_source_is_an_error(sd):
    unknown = replace(REQUEST, source_id="nowhere")
    with pytest.raises(GenieError, match="must be in the support set, nowhere"):
        list(render([unknown], sd, sources={}, steps=STEPS))


def with_memory_for(images, sd):
    """The model on a device whose memory holds so many images, two halves each."""

    def denoiser(latents, timesteps, embeddings):
        if len(latents) > 2 * images:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return sd.denoiser(latents, timesteps, embeddings)

    return replace(sd, denoiser=denoiser)


def test_out_of_memory_halves_the_batch(sd, source_images, caplog):
    requests = [replace(REQUEST, source_id=source) for source in source_images]
    expected = rendered(requests, sd, source_images, batch_size=2)
    told = []
    tight = with_memory_for(2, sd)
    images = rendered(requests, tight, source_images, batch_size=8, halved=told.append)
    assert told == [4, 2]
    assert all(images[q].tobytes() == expected[q].tobytes() for q in requests)
    assert "going on with 4" in caplog.text
    assert "going on with 2" in caplog.text


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")],
)
def test_out_of_memory_on_the_host_halves_the_batch_too(sd, source_images, error):
    def denoiser(latents, timesteps, embeddings):
        if len(latents) > 4:
            raise error
        return sd.denoiser(latents, timesteps, embeddings)

    requests = [replace(REQUEST, source_id=source) for source in source_images]
    told = []
    images = rendered(
        *(requests, replace(sd, denoiser=denoiser), source_images),
        batch_size=8,
        halved=told.append,
    )
    assert told == [4, 2]
    assert set(images) == set(requests)


def test_other_errors_of_the_device_are_not_taken_for_a_lack_of_memory(sd, source_images):
    def denoiser(latents, timesteps, embeddings):
        raise RuntimeError("the device is gone")

    requests = [replace(REQUEST, source_id=next(iter(source_images)))]
    with pytest.raises(RuntimeError, match="the device is gone"):
        rendered(requests, replace(sd, denoiser=denoiser), source_images, batch_size=8)


def test_out_of_memory_with_one_image_is_an_error(sd, source_images):
    wanted = [replace(REQUEST, source_id=next(iter(source_images)))]
    with pytest.raises(GenieError, match="one image at a time"):
        rendered(wanted, with_memory_for(0, sd), source_images, batch_size=2)


@pytest.mark.parametrize(("guidance", "warned"), [(1.0, True), (3.0, False)])
def test_negative_prompt_without_guidance_is_warned_of(sd, source_images, caplog, guidance, warned):
    wanted = replace(REQUEST, source_id=next(iter(source_images)))
    rendered([wanted], sd, source_images, guidance_scale=guidance)
    assert ("negative prompts have no effect" in caplog.text) == warned


@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
def test_image_spoiled_by_half_precision_is_rendered_again_in_float32_and_counted(
    tiny_sd_folder, source_images, spoil, caplog
):
    half = load_generator(tiny_sd_folder, device="cpu", compile=False, dtype=torch.bfloat16)
    weights = {k: v.clone() for k, v in half.pipeline.unet.state_dict().items()}
    requests = [replace(REQUEST, source_id=source) for source in list(source_images)[:4]]
    plain = rendered(requests, half, source_images, batch_size=4)

    def denoiser(latents, timesteps, embeddings):
        predicted = half.denoiser(latents, timesteps, embeddings)
        predicted[1] = spoil  # of the first half without guidance and the second with it
        return predicted

    told = []
    images = rendered(
        *(requests, replace(half, denoiser=denoiser), source_images),
        batch_size=4,
        again=told.extend,
    )
    (spoiled,) = told
    exact = load_generator(tiny_sd_folder, device="cpu", compile=False)
    wanted = np.asarray(rendered([spoiled], exact, source_images)[spoiled], float)
    assert np.abs(np.asarray(images[spoiled], float) - wanted).mean() < 6
    assert not is_blank(images[spoiled])
    for request in requests:
        if request != spoiled:
            assert images[request].tobytes() == plain[request].tobytes()
    assert "rendered again in float32" in caplog.text
    after = half.pipeline.unet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())


def test_black_image_in_float32_is_not_rendered_again(sd, source_images):
    def denoiser(latents, timesteps, embeddings):
        return torch.full_like(latents, torch.nan)

    request = replace(REQUEST, source_id=next(iter(source_images)))
    told = []
    broken = replace(sd, denoiser=denoiser)
    images = rendered([request], broken, source_images, again=told.extend)
    assert is_blank(images[request])
    assert told == []


def test_only_what_is_taken_of_a_batch_is_rendered(sd, source_images):
    requests = [replace(REQUEST, source_id=source) for source in source_images]
    batches = []

    def take(batch):
        batches.append(batch)
        return batch[1:]

    options = {"sources": source_images, "steps": STEPS, "batch_size": 4}
    images = dict(render(requests, sd, **options, take=take))
    assert sum(map(len, batches)) == len(requests)
    assert set(images) == {request for batch in batches for request in batch[1:]}


@pytest.mark.parametrize("change", ["other pixels", "no image"])
def test_source_whose_pixels_changed_is_an_error_that_names_it(sd, source_images, change):
    first, second = list(source_images)[:2]
    png = source_images[second] if change == "other pixels" else source_images[first][:50]
    request = replace(REQUEST, source_id=first)
    with pytest.raises(GenieError, match=f"source image {first} .* damaged; run `dvc repro"):
        rendered([request], sd, source_images | {first: png})
