"""The noise ratio r, its number of denoising steps, and the noise itself.

| code | paper | meaning |
|---|---|---|
| r | r | fraction of the diffusion process applied to the source, in (0, 1] |
| steps | N | `num_inference_steps` of a full run |
| k | floor(rN) | number of steps that are denoised |
"""

import logging
import math
from collections.abc import Sequence
from fractions import Fraction

import torch

from genie.errors import GenieError
from genie.generate.request import Request
from genie.keyed import number

log = logging.getLogger(__name__)


def denoising_steps(r: float, steps: int) -> int:
    """Compute k = max(1, floor(r * steps + 1/2)) in exact arithmetic.

    The paper has floor(rN), which differs only where rN is not an integer. r is rounded to 12
    decimals, so that 0.7 and 0.7000000000000001 are the same ratio and 0.58 * 50 is 29. Raise
    GenieError unless r is in (0, 1] and steps is at least 1.
    """
    if not 0 < r <= 1:
        raise GenieError(f"noise.r must be in (0, 1], got {r}; 0.7 is a usual value")
    if steps < 1:
        raise GenieError(f"generator.steps must be at least 1, got {steps}; 50 is a usual value")
    exact = Fraction(f"{r:.12f}") * steps
    return max(1, math.floor(exact + Fraction(1, 2)))


def coincides(r: float, steps: int) -> bool:
    """Return whether r * steps is an integer, so that one of the steps starts exactly at r.

    For r = 0.7 this holds with 10 steps, but not with 4.
    """
    return (Fraction(f"{r:.12f}") * steps).denominator == 1


def strength(r: float, steps: int) -> float:
    """Return the diffusers `strength` in (0, 1] that denoises `denoising_steps(r, steps)` steps.

    diffusers takes int(steps * strength) steps, which loses a step to rounding for some r (50 *
    0.58 gives 28). Half a step more than k is safe in both directions.
    """
    return min(1.0, (denoising_steps(r, steps) + 0.5) / steps)


def levels(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return `count` evenly spaced noise ratios in [low, high] (GeNIe-Ada, Algorithm 1).

    They are in ascending order. Raise GenieError unless count >= 2 and 0 < low < high <= 1.
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


def warn_of_equal_levels(ratios: Sequence[float], steps: int) -> None:
    """Log a warning if there are too few steps to distinguish the ratios, as in distilled models.

    This applies to generators that can only start at one of their steps. The fast path starts at r
    exactly.
    """
    different = len({denoising_steps(r, steps) for r in ratios})
    if different < len(ratios):
        log.warning(
            "the %d levels from noise.low to noise.high give only %d different numbers of steps at "
            "generator.steps=%d, so some levels render the same image; use fewer levels (noise.M) "
            "or more steps",
            *(len(ratios), different, steps),
        )


def noise_seed(request: Request) -> int:
    """Return the 63-bit seed of an image's noise, which all its noise levels share.

    The seed is a hash of seed, source, target, replicate and the target's support images. It
    therefore differs between images and between tasks, and does not depend on the batch or on other
    requests.
    """
    drawn_for = (
        int(request.seed),
        request.source_id,
        request.target_label,
        int(request.replicate),
        request.support_id,
    )
    return number(repr(drawn_for)) >> 1


def noise_generator(request: Request) -> torch.Generator:
    """Return the CPU random generator of a request, seeded by `noise_seed`."""
    return torch.Generator("cpu").manual_seed(noise_seed(request))


def initial_noise(request: Request, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw standard normal float32 noise of `shape`, on the CPU so that all devices agree."""
    return torch.randn(shape, generator=noise_generator(request), dtype=torch.float32)
