"""Rendering of requests in batches, on the fast path or the plain path.

The Stable Diffusion family takes the fast path. All other image-to-image pipelines take the plain
path, in batches with one random generator per image. So do models distilled to few steps (LCM,
Turbo and similar), because they are trained for their own scheduler.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from PIL import Image

from genie.data.images import is_blank
from genie.errors import GenieError, out_of_memory
from genie.generate.batches import batches
from genie.generate.denoiser import load_denoiser
from genie.generate.fast import FastPath
from genie.generate.model import Generator
from genie.generate.plain import PlainPath, heeds_negative
from genie.generate.request import Request

log = logging.getLogger(__name__)


def default_batch_size(generator: Generator) -> int:
    """Return the default number of images per call of the denoiser.

    On a CPU it is 32 for 8x8 latents, 16 up to 16x16, and 2 above to limit memory. With a denoiser
    of 4 M parameters on two cores, 32 is a tenth faster than 16; 64 gains little more, and small
    jobs do not fill it. On a GPU it is 256 up to 16x16, 32 up to 64x64, and 8 above. The GPU values
    are not measured; `fastest_batch_size` measures the best one.
    """
    side = generator.size // generator.pipeline.vae_scale_factor
    if generator.device != "cuda":
        return 32 if side <= 8 else 16 if side <= 16 else 2
    return 256 if side <= 16 else 32 if side <= 64 else 8


def render(
    requests: Sequence[Request],
    generator: Generator,
    *,
    sources: Mapping[str, bytes],
    steps: int,
    guidance_scale: float | None = None,
    batch_size: int | None = None,
    halved: Callable[[int], None] = lambda size: None,
    again: Callable[[Sequence[Request]], None] = lambda requests: None,
    take: Callable[[Sequence[Request]], Sequence[Request]] = lambda batch: batch,
) -> Iterator[tuple[Request, Image.Image]]:
    """Yield every request with its RGB image of `generator.size`, in the fastest order.

    `sources` maps image_id to PNG bytes. The denoiser only sees batches of three sizes:
    `batch_size`, a quarter and a sixteenth of it. Up to rounding, an image does not depend on the
    batch size or on the other images in its batch. Memory does not grow with the number of
    requests. If memory runs out, the batch size is halved for the rest of the call and passed to
    `halved`. Images that are black in half precision are rendered again in float32 and passed to
    `again`. `take` gets every batch before it is rendered and returns the requests of it to render.
    Raise GenieError if a request's source is not in `sources`.
    """
    guidance_scale = generator.guidance_scale if guidance_scale is None else guidance_scale
    size = batch_size or default_batch_size(generator)
    if size < 1:
        raise GenieError(f"batch_size must be at least 1, got {size}; leave it out for the default")
    require_sources(requests, sources)
    _warn_of_negative_prompts(requests, generator, guidance_scale)
    path = FastPath if generator.fast else PlainPath
    draw = path(generator, sources, steps, guidance_scale)
    for whole in batches(requests, steps, size, mixed=generator.fast):
        batch = take(whole)
        start = 0
        while start < len(batch):
            part = batch[start : start + size]
            try:
                images = draw(part, size)
                if black := _black(images, generator):
                    with _in_float32(generator) as precise:
                        redraw = path(precise, sources, steps, guidance_scale)
                        redrawn = redraw([part[i] for i in black], size)
                    again([part[i] for i in black])
                    images = _replaced(images, dict(zip(black, redrawn, strict=True)))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                size = _halved(size, generator.device)
                halved(size)
                continue
            yield from zip(part, images, strict=True)
            start += len(part)


def _black(images: Sequence[Image.Image], generator: Generator) -> list[int]:
    """Return the places of the images that half precision has probably spoiled."""
    if generator.dtype == torch.float32:
        return []
    return [i for i, image in enumerate(images) if is_blank(image)]


def _replaced(
    images: Sequence[Image.Image], others: Mapping[int, Image.Image]
) -> list[Image.Image]:
    return [others.get(i, image) for i, image in enumerate(images)]


@contextmanager
def _in_float32(generator: Generator) -> Iterator[Generator]:
    """Lend the generator in float32; its weights return to their precision unchanged."""
    log.warning("images came out black in %s and are rendered again in float32", generator.dtype)
    pipeline, dtype = generator.pipeline, generator.pipeline.dtype
    pipeline.to(torch.float32)
    denoiser = None
    if generator.fast:
        denoiser = load_denoiser(pipeline.unet, device=generator.device, compile=False)
    try:
        yield replace(generator, dtype=torch.float32, denoiser=denoiser)
    finally:
        pipeline.to(dtype)


def require_sources(requests: Sequence[Request], sources: Mapping[str, bytes]) -> None:
    """Raise GenieError if a request's source is not in `sources`."""
    for request in requests:
        if request.source_id is not None and request.source_id not in sources:
            raise GenieError(
                f"every source image must be in the support set, {request.source_id} "
                f"({request.source_label}) is not; run `dvc repro` from prepare"
            )


def _warn_of_negative_prompts(
    requests: Sequence[Request], generator: Generator, guidance_scale: float
) -> None:
    """Log a warning if there are negative prompts that have no effect."""
    if any(q.negative_prompt for q in requests) and not heeds_negative(generator, guidance_scale):
        log.warning(
            "negative prompts have no effect with %s at guidance_scale %g: it must exceed 1 and "
            "the pipeline must take negative_prompt; leave them empty or choose another model",
            *(generator.name, guidance_scale),
        )


def _halved(size: int, device: str) -> int:
    if size == 1:
        raise GenieError(
            "the generator must fit the memory with one image at a time, but ran out of it on "
            f"{device}; use a machine with more memory, or a smaller model"
        )
    if device == "cuda":
        torch.cuda.empty_cache()
    log.warning("out of memory with %d images at a time, going on with %d", size, size // 2)
    return size // 2
