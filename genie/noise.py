"""Noise ratio r, the number of denoising steps it means, and the noise itself.

| code | paper | meaning |
|---|---|---|
| r | r | share of the diffusion that the source is pushed back, in (0, 1] |
| steps | N | `num_inference_steps` of a full run |
| k | floor(rN) | steps that are really denoised |
"""

import hashlib
import math
from fractions import Fraction

import torch

from genie.errors import GenieError
from genie.records import Request


def denoising_steps(r: float, steps: int) -> int:
    """k = max(1, floor(r * steps + 1/2)), exact for r as it is written.

    The paper writes floor(rN), which differs only where rN is not whole. r is taken at 12
    decimals, so that 0.7 and 0.7000000000000001 are one ratio and 0.58 * 50 is 29.
    GenieError unless r is in (0, 1] and steps at least 1.
    """
    if not 0 < r <= 1:
        raise GenieError(f"noise.r must be in (0, 1], got {r}; 0.7 is a usual value")
    if steps < 1:
        raise GenieError(f"generator.steps must be at least 1, got {steps}; 50 is a usual value")
    exact = Fraction(f"{r:.12f}") * steps
    return max(1, math.floor(exact + Fraction(1, 2)))


def coincides(r: float, steps: int) -> bool:
    """Whether r * steps is whole: a step of the full run is at r, as for 0.7 of 10 but not of 4."""
    return (Fraction(f"{r:.12f}") * steps).denominator == 1


def strength(r: float, steps: int) -> float:
    """The diffusers `strength` in (0, 1] that denoises exactly `denoising_steps(r, steps)` steps.

    diffusers takes int(steps * strength), which loses a step to rounding for some r (50 * 0.58
    gives 28); half a step more than k is safe on both sides.
    """
    return min(1.0, (denoising_steps(r, steps) + 0.5) / steps)


def levels(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` noise ratios evenly spaced in [low, high], ascending (GeNIe-Ada, Algorithm 1).

    GenieError unless count is at least 2 and 0 < low < high <= 1.
    """
    if count < 2:
        raise GenieError(f"noise.M must be at least 2 to compare levels, got {count}; use 5")
    if not 0 < low <= 1:
        raise GenieError(f"noise.low must be in (0, 1], got {low}; use 0.5")
    if not 0 < high <= 1:
        raise GenieError(f"noise.high must be in (0, 1], got {high}; use 0.9")
    if low >= high:
        raise GenieError(f"noise.low must be below noise.high, got {low} and {high}; swap them")
    step = (high - low) / (count - 1)
    return tuple(round(low + i * step, 12) for i in range(count))


def noise_seed(seed: int, source_id: str | None, target_label: str, replicate: int) -> int:
    """63-bit seed of one image's noise: the same for all its noise levels, and for no other image.

    A hash of what the image is, so neither the batch nor what else is rendered can change it.
    """
    identity = repr((int(seed), source_id, target_label, int(replicate)))
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") >> 1


def noise_generator(request: Request) -> torch.Generator:
    """CPU random generator of one request, seeded by `noise_seed`."""
    key = noise_seed(request.seed, request.source_id, request.target_label, request.replicate)
    return torch.Generator("cpu").manual_seed(key)


def initial_noise(request: Request, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal float32 noise of `shape`, drawn on the CPU so that all devices agree."""
    return torch.randn(shape, generator=noise_generator(request), dtype=torch.float32)
