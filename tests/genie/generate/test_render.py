import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from genie.errors import GenieError
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


def test_out_of_memory_with_one_image_is_an_error(sd, source_images):
    wanted = [replace(REQUEST, source_id=next(iter(source_images)))]
    with pytest.raises(GenieError, match="one image at a time"):
        rendered(wanted, with_memory_for(0, sd), source_images, batch_size=2)


@pytest.mark.parametrize(("guidance", "warned"), [(1.0, True), (3.0, False)])
def test_negative_prompt_without_guidance_is_warned_of(sd, source_images, caplog, guidance, warned):
    wanted = replace(REQUEST, source_id=next(iter(source_images)))
    rendered([wanted], sd, source_images, guidance_scale=guidance)
    assert ("negative prompts have no effect" in caplog.text) == warned
