"""Engines, which render batches of requests in this process or on Ray (`ray_engine`).

For models of the Stable Diffusion family, images are rendered by `stable_diffusion`. The pipelines
of all other models are called unchanged, with one random generator per image (`generic`). This
includes models distilled to few steps (LCM, Turbo and similar), because they are trained for their
own schedulers.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from genie.core.errors import FailedError, GenieError, out_of_memory
from genie.data.images import encode_png, is_blank
from genie.plan.levels import denoising_steps
from genie.plan.requests import Request
from genie.render.adapters import add_tokens
from genie.render.denoiser import load_denoiser
from genie.render.generic import GenericRenderer
from genie.render.model import Generator
from genie.render.model_info import STABLE_DIFFUSION, ModelInfo
from genie.render.stable_diffusion import StableDiffusionRenderer

log = logging.getLogger(__name__)

Sources = Mapping[str, bytes]
"""PNG bytes of source images by id."""

RenderBatch = Callable[[Sequence[Request], Sources, int, int], list[Image.Image]]
"""Renders requests, sorted by descending steps, given sources, N and images per denoiser call."""


@dataclass(frozen=True)
class Rendered:
    """A rendered image, and how it was rendered.

    `batch_size` is smaller than the model's batch size if memory ran out. `in_float32` is True if
    the image came out black in half precision and was rendered again in float32.
    """

    request: Request
    png: bytes
    guided_steps: int
    batch_size: int
    in_float32: bool = False


class Engine(Protocol):
    """Renders requests, in this process or on workers.

    `at_once` is the number of requests that each call to `render` should receive. With fewer
    requests, some workers are idle.
    """

    at_once: int

    @property
    def info(self) -> ModelInfo:
        """The description of the model."""
        ...

    def render(
        self, batches: Sequence[Sequence[Request]], sources: Sources, steps: int
    ) -> Iterator[list[Rendered]]:
        """Yield the images of each batch, or of a part of a batch, as they are finished.

        Up to rounding, an image does not depend on the other images in its batch.
        """
        ...

    def generator(self) -> Generator:
        """Return the model, loaded in this process, for training tokens."""
        ...

    def add_tokens(self, tokens: Mapping[str, Path]) -> None:
        """Load learned tokens from their files, so that prompts can contain them."""
        ...


class LocalEngine:
    """Renders in this process, one batch per call."""

    at_once = 1

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._batch_size = generator.info.batch_size
        self._render = _renderer(generator)

    @property
    def info(self) -> ModelInfo:
        """The description of the model."""
        return self._generator.info

    def generator(self) -> Generator:
        """Return the model, for training tokens."""
        return self._generator

    def add_tokens(self, tokens: Mapping[str, Path]) -> None:
        """Load learned tokens from their files, so that prompts can contain them."""
        add_tokens(self._generator, tokens)

    def render(
        self, batches: Sequence[Sequence[Request]], sources: Sources, steps: int
    ) -> Iterator[list[Rendered]]:
        """Yield the images of each batch, or of a part of a batch, as they are finished.

        If memory runs out, the batch size is halved for the rest of this engine's lifetime. Images
        that are black in half precision are rendered again in float32. Raise FailedError if even a
        single image does not fit in memory.
        """
        for batch in batches:
            start = 0
            while start < len(batch):
                part = batch[start : start + self._batch_size]
                try:
                    images, black = self._images(part, sources, steps)
                except (MemoryError, RuntimeError) as error:
                    if isinstance(error, GenieError) or not out_of_memory(error):
                        raise
                    self._batch_size = _halved(self._batch_size, self.info.device)
                    continue
                yield self._rendered(part, images, black, steps)
                start += len(part)

    def _images(
        self, part: Sequence[Request], sources: Sources, steps: int
    ) -> tuple[list[Image.Image], set[int]]:
        """Return the images, and the indices of those that were rendered again in float32."""
        images = self._render(part, sources, steps, self._batch_size)
        black = [i for i, image in enumerate(images) if self._spoiled(image)]
        if black:
            with _in_float32(self._generator) as precise:
                spoiled = [part[i] for i in black]
                redrawn = _renderer(precise)(spoiled, sources, steps, self._batch_size)
            for i, image in zip(black, redrawn, strict=True):
                images[i] = image
        return images, set(black)

    def _spoiled(self, image: Image.Image) -> bool:
        """Return whether half precision has probably overflowed."""
        return self._generator.dtype != torch.float32 and is_blank(image)

    def _rendered(
        self, part: Sequence[Request], images: Sequence[Image.Image], black: set[int], steps: int
    ) -> list[Rendered]:
        with ThreadPoolExecutor(4) as threads:
            pngs = list(threads.map(encode_png, images))
        return [
            Rendered(request, png, denoising_steps(request.r, steps), self._batch_size, i in black)
            for i, (request, png) in enumerate(zip(part, pngs, strict=True))
        ]


def _renderer(generator: Generator) -> RenderBatch:
    if generator.info.family == STABLE_DIFFUSION:
        return StableDiffusionRenderer(generator)
    return GenericRenderer(generator)


@contextmanager
def _in_float32(generator: Generator) -> Iterator[Generator]:
    """Yield the generator in float32; afterwards, restore the weights in their own precision."""
    log.warning("images came out black in %s and are rendered again in float32", generator.dtype)
    pipeline, dtype = generator.pipeline, generator.pipeline.dtype
    pipeline.to(torch.float32)
    denoiser = None
    if generator.denoiser is not None:
        denoiser = load_denoiser(pipeline.unet, device=generator.info.device, compile=False)
    try:
        yield replace(generator, dtype=torch.float32, denoiser=denoiser)
    finally:
        pipeline.to(dtype)


def _halved(size: int, device: str) -> int:
    if size == 1:
        raise FailedError(
            "the generator must fit in memory with one image at a time, but ran out of it on "
            f"{device}",
            remedy="use a machine with more memory, or a smaller model",
        )
    if device == "cuda":
        torch.cuda.empty_cache()
    log.warning("out of memory with %d images at a time, continuing with %d", size, size // 2)
    return size // 2
