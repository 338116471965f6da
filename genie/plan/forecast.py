"""The cost of a plan, counted before anything is rendered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from genie.plan.levels import denoising_steps
from genie.plan.requests import Request


@dataclass(frozen=True)
class Forecast:
    """The numbers of distinct images and of guided denoising steps to render."""

    images: int
    guided_steps: int


def forecast(requests: Sequence[Request], steps: int) -> Forecast:
    """Count requests and their guided steps, at `steps` denoising steps per full rendering.

    Replacements of images that a filter rejects are not included, since their number is unknown.
    """
    return Forecast(len(requests), guided_steps(requests, steps))


def guided_steps(requests: Iterable[Request], steps: int) -> int:
    """Return the sum of the requests' guided steps."""
    return sum(denoising_steps(request.r, steps) for request in requests)
