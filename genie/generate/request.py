"""Requests for images: one per wanted image, or one per noise level where levels are compared."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """One image to render: the source noised to ratio r and denoised under the prompt.

    `source_id` and `source_label` are None for text-to-image. r is in (0, 1]. The noise is keyed by
    (seed, source, target, replicate, support_id), so all levels of a pair share one noise sample.
    `support_id` identifies the target's support images in the task: tasks whose target is
    represented by other images get other noise.
    """

    source_id: str | None
    source_label: str | None
    target_label: str
    prompt: str
    negative_prompt: str
    r: float
    replicate: int
    seed: int
    support_id: str


Candidates = tuple[Request, ...]
"""The requests from which one image is chosen, levels ascending."""


@dataclass(frozen=True)
class Wanted:
    """One image that a task needs, with the requests from which it is chosen."""

    task: int
    candidates: Candidates


def distinct(wanted: Iterable[Wanted]) -> list[Request]:
    """Return the distinct requests in order of first appearance."""
    return list(dict.fromkeys(request for one in wanted for request in one.candidates))
