"""Batching of requests, and the batch sizes of denoiser calls."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch

from genie.plan.levels import denoising_steps
from genie.plan.requests import Request

WINDOW = 1024  # maximum number of sources, and of prompts, in memory


def batches(
    requests: Sequence[Request], steps: int, size: int, *, mixed: bool
) -> Iterator[list[Request]]:
    """Yield batches of at most `size` requests, starting with requests that take the most steps.

    The requests in a batch take the same number of steps. With `mixed`, requests that do not fill a
    batch are combined with requests that take fewer steps. Requests are sorted by source and
    processed in windows of `WINDOW` sources, so that each source is encoded once.
    """
    window = 0
    seen: set[str | None] = set()
    order = []
    for request in sorted(requests, key=lambda q: (q.source_id or "", q.target_label, q.prompt)):
        if request.source_id not in seen and len(seen) == WINDOW:
            window, seen = window + 1, set()
        seen.add(request.source_id)
        order.append((window, -denoising_steps(request.r, steps), request))
    order.sort(key=lambda item: (*item[:2], item[2].r))
    for _, whole in groupby(order, key=lambda item: item[0]):
        left: list[Request] = []
        for _, level in groupby(whole, key=lambda item: item[1]):
            group = [request for *_, request in level]
            full = len(group) - len(group) % size if mixed else len(group)
            yield from (group[i : i + size] for i in range(0, full, size))
            left += group[full:]
        yield from (left[i : i + size] for i in range(0, len(left), size))


def widths(count: int, size: int) -> list[int]:
    """Split `count` images into the batch sizes of successive denoiser calls.

    Batches come in three sizes: `size`, a quarter of it, and a sixteenth of it. A denoiser that is
    compiled for each shape therefore sees at most three shapes. The last batch may need padding,
    but always less than the smallest batch size.
    """
    shapes = [shape for shape in (size, size // 4, size // 16) if shape]
    widths = []
    for shape in shapes:
        while count > max(0, shape - shapes[-1]):
            widths.append(shape)
            count -= shape
    return widths


def padded(values: torch.Tensor, length: int) -> torch.Tensor:
    """Pad `values` to `length` rows by repeating the last row."""
    return torch.cat([values, values[-1:].repeat(length - len(values), *[1] * (values.dim() - 1))])
