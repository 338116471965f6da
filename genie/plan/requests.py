"""Requests for images, and slots, which are the places to be filled in an augmentation set."""

from collections.abc import Iterable
from dataclasses import dataclass

from genie.core.seeding import number


@dataclass(frozen=True)
class Request:
    """One image to render, whose source is noised to ratio r and denoised under the prompt.

    `source_id` and `source_label` are None for text-to-image. r is in (0, 1]. `support_id` is a
    hash of the target's support images in the task, so tasks with different images of the target
    get different noise. `noise_id` replaces `source_id` in the key of the noise, unless it is None.
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
    noise_id: str | None = None


@dataclass(frozen=True)
class Slot:
    """A place in a task's augmentation set, to be filled by one image.

    `levels` are the requests that compete for the slot, in ascending order of r. They share one
    noise sample. If there is only one level, no choice is needed.
    """

    task: int
    levels: tuple[Request, ...]


def distinct(slots: Iterable[Slot]) -> list[Request]:
    """Return the distinct requests in order of first appearance."""
    return list(dict.fromkeys(request for slot in slots for request in slot.levels))


def noise_seed(request: Request) -> int:
    """Return the 63-bit seed of an image's noise, which all its noise levels share.

    It is a hash of the request's seed, source, target and replicate, and of the target's support
    images. It therefore differs between images and between tasks, and does not depend on the batch
    or on other requests.
    """
    drawn_for = (
        int(request.seed),
        request.source_id if request.noise_id is None else request.noise_id,
        request.target_label,
        int(request.replicate),
        request.support_id,
    )
    return number(repr(drawn_for)) >> 1
