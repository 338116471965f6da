"""The Gaussian noise that images start from."""

from dataclasses import replace

import torch

from genie.plan.requests import Request
from genie.render.noise import initial_noise

REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "", 0.7, 0, 0, "")


def test_noise_is_one_sample_for_all_levels_of_a_pair():
    other_level = Request("a", "shirt", "coat", "another prompt", "", 0.3, 0, 0, "")
    assert torch.equal(initial_noise(REQUEST, (4, 8, 8)), initial_noise(other_level, (4, 8, 8)))


def test_other_images_start_from_other_noise():
    samples = [
        initial_noise(request, (4, 8, 8))
        for request in (REQUEST, replace(REQUEST, replicate=1), replace(REQUEST, noise_id="named"))
    ]
    assert len({sample.numpy().tobytes() for sample in samples}) == 3


def test_noise_is_standard_normal():
    noise = initial_noise(REQUEST, (4, 64, 64))
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
