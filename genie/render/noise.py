"""The Gaussian noise from which images are denoised."""

import torch

from genie.plan.requests import Request, noise_seed


def noise_generator(request: Request) -> torch.Generator:
    """Return the CPU random generator for a request, seeded with `noise_seed`."""
    return torch.Generator("cpu").manual_seed(noise_seed(request))


def initial_noise(request: Request, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw standard normal float32 noise of `shape`, on the CPU so that all devices agree."""
    return torch.randn(shape, generator=noise_generator(request), dtype=torch.float32)
