"""The cost of a plan, counted before anything is rendered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from genie.plan.levels import denoising_steps
from genie.plan.requests import Request


@dataclass(frozen=True)
class Forecast:
    """The number of distinct images to render, and the guided denoising steps that they take."""

    images: int
    guided_steps: int


def forecast(requests: Sequence[Request], steps: int) -> Forecast:
    """Count requests and their guided steps, at `steps` denoising steps per full rendering.

    Replacements for images that a filter rejects are not included, because their number is unknown.
    """
    return Forecast(len(requests), guided_steps(requests, steps))


def guided_steps(requests: Iterable[Request], steps: int) -> int:
    """Return the total number of guided steps of the requests."""
    return sum(denoising_steps(request.r, steps) for request in requests)
