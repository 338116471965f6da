"""The compiled denoiser against the plain one."""

from functools import cache

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from genie.core.errors import FailedError
from genie.plan.requests import Request
from genie.render.denoiser import load_denoiser
from genie.render.keys import request_key
from genie.render.model import Generator, load_generator
from genie.render.model_info import RenderSettings
from tests.genie.render.engines import rendered

UNCHANGED = {"steps": 10, "guidance_scale": 7.5, "batch_size": 32}
"""Ten steps, and the model's own values otherwise."""


class Unconvertible(torch.nn.Module):
    """Fails while it is traced."""

    def forward(self, latents, timesteps, embeddings, return_dict):
        raise RuntimeError("no such operator")


@pytest.fixture(scope="module")
def loaded(tiny_sd_folder):
    """The tiny model by whether it is compiled and by precision, each loaded once."""

    @cache
    def load(compile: bool, dtype: str = "float32") -> Generator:
        settings = RenderSettings(compile=compile, dtype=dtype)
        return load_generator(tiny_sd_folder, settings, device="cpu")

    return load


def requests(sources, ratios=(0.4, 0.8)):
    return [
        Request(image, "cat", "dog", "a photo of a dog", "", r, 0, 0, "")
        for image in list(sources)[:3]
        for r in ratios
    ]


def test_images_equal_those_of_pytorch_within_rounding(loaded, source_images):
    images = []
    for compile in (True, False):
        drawn = rendered(requests(source_images), loaded(compile), source_images, **UNCHANGED)
        images.append({q: np.asarray(image, dtype=int) for q, image in drawn.items()})
    compiled, plain = images
    assert compiled.keys() == plain.keys()
    assert max(np.abs(compiled[q] - plain[q]).max() for q in plain) <= 1


@pytest.mark.parametrize("compile", [True, False])
def test_half_precision_changes_images_little_and_their_keys(loaded, source_images, compile):
    same = requests(source_images)
    images, keys = [], []
    for dtype in ("bfloat16", "float32"):
        generator = loaded(compile, dtype)
        drawn = rendered(same, generator, source_images, **UNCHANGED)
        images.append(np.stack([np.asarray(drawn[q], dtype=int) for q in same]))
        keys.append([request_key(q, generator.info, steps=10) for q in same])
    assert not set(keys[0]) & set(keys[1])
    assert np.abs(images[0] - images[1]).mean() <= 2


def test_batches_of_different_shapes_can_alternate(loaded):
    unet = loaded(False).pipeline.unet
    compiled = load_denoiser(unet, device="cpu", compile=True)
    for shape in [(2, 4, 8, 8), (3, 4, 16, 8), (1, 4, 8, 8), (2, 4, 8, 8)]:
        latents = torch.randn(shape)
        embeddings = torch.randn(shape[0], 5, unet.config.cross_attention_dim)
        timesteps = torch.arange(shape[0]) * 300 + 21
        with torch.inference_mode():
            first = compiled(latents, timesteps, embeddings)
            second = compiled(latents * 0, timesteps, embeddings)
            reference = unet(latents, timesteps, encoder_hidden_states=embeddings).sample
        assert not torch.equal(first, second)
        torch.testing.assert_close(first, reference, rtol=1e-4, atol=1e-5)


def test_denoiser_that_cannot_be_converted_is_an_error():
    denoise = load_denoiser(Unconvertible(), device="cpu", compile=True)
    with pytest.raises(FailedError, match=r"no such operator; set `compile` to false"):
        denoise(torch.zeros(1, 4, 8, 8), torch.ones(1), torch.zeros(1, 5, 8))


def test_a_model_that_scales_its_norms_by_the_timestep_is_compiled():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
    ).eval()
    denoise = load_denoiser(unet, device="cpu", compile=True)
    inputs = (torch.randn(4, 4, 8, 8), torch.tensor([1, 300, 600, 999]), torch.randn(4, 5, 16))
    with torch.inference_mode():
        plain = unet(inputs[0], inputs[1], encoder_hidden_states=inputs[2]).sample
        assert torch.allclose(denoise(*inputs), plain, atol=1e-4)
