"""What a plan will cost, counted before anything is rendered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from genie.plan.levels import denoising_steps
from genie.plan.requests import Request


@dataclass(frozen=True)
class Forecast:
    """Numbers of distinct images and of the guided denoising steps that they take."""

    images: int
    guided_steps: int


def forecast(requests: Sequence[Request], steps: int) -> Forecast:
    """Count requests and their guided steps, at `steps` denoising steps per full rendering.

    Images that a filter rejects are drawn again, which is not known beforehand.
    """
    return Forecast(len(requests), guided_steps(requests, steps))


def guided_steps(requests: Iterable[Request], steps: int) -> int:
    """Return the sum of the requests' guided steps."""
    return sum(denoising_steps(request.r, steps) for request in requests)
