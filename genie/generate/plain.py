"""The plain path, which calls the loaded pipeline unchanged."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoPipelineForText2Image
from PIL import Image

from genie.data.images import decode_source, square
from genie.generate.batches import widths
from genie.generate.model import Generator
from genie.generate.noise import denoising_steps, noise_generator, strength
from genie.generate.request import Request


def heeds_negative(generator: Generator, guidance_scale: float) -> bool:
    """Return whether a negative prompt has any effect."""
    takes = "negative_prompt" in inspect.signature(generator.pipeline.__call__).parameters
    return takes and guidance_scale > 1


@dataclass
class PlainPath:
    """Renders a batch of requests with the same number of steps by calling the loaded pipeline."""

    generator: Generator
    sources: Mapping[str, bytes]
    steps: int
    guidance_scale: float

    def __call__(self, batch: Sequence[Request], size: int) -> list[Image.Image]:
        """Render `batch`: at most `size` requests, all with the same number of steps."""
        k = denoising_steps(batch[0].r, self.steps)
        rendered: dict[int, Image.Image] = {}
        for drawn in (False, True):
            places = [i for i, q in enumerate(batch) if (q.source_id is None) == drawn]
            if places:
                images = self._call([batch[i] for i in places], k, size)
                rendered |= dict(zip(places, images, strict=True))
        return [rendered[i] for i in range(len(batch))]

    def _call(self, batch: Sequence[Request], k: int, size: int) -> list[Image.Image]:
        width = sum(widths(len(batch), size))
        padded = [*batch, *[batch[-1]] * (width - len(batch))]
        options: dict[str, Any] = {
            "prompt": [q.prompt for q in padded],
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "generator": [noise_generator(q) for q in padded],
        }
        pipeline = self.generator.pipeline
        if heeds_negative(self.generator, self.guidance_scale):
            options["negative_prompt"] = [q.negative_prompt for q in padded]
        if batch[0].source_id is None:
            pipeline = AutoPipelineForText2Image.from_pipe(pipeline)
            pipeline.set_progress_bar_config(disable=True)
            options |= {"height": self.generator.size, "width": self.generator.size}
        else:
            names = [q.source_id for q in padded if q.source_id is not None]
            images = [decode_source(self.sources, name) for name in names]
            options["image"] = [square(image, self.generator.size) for image in images]
            if _spreads_steps(pipeline):
                options |= {"num_inference_steps": k, "strength": k / self.steps}
            else:
                options["strength"] = _strength_for(pipeline, k, self.steps)
        return list(pipeline(**options).images[: len(batch)])


def _spreads_steps(pipeline: Any) -> bool:
    """Return whether the pipeline spreads all its steps over the range given by `strength`.

    LCM's pipeline does, and is therefore called with k steps and strength k / N. Other pipelines
    run only the last of their N steps.
    """
    return "original_inference_steps" in inspect.signature(pipeline.__call__).parameters


def _strength_for(pipeline: Any, k: int, steps: int) -> float:
    """Return the strength at which this pipeline denoises k of N steps.

    Pipelines round differently: Stable Diffusion takes int(N * strength) steps, while Stable
    Diffusion 3 and Flux round up. The strengths half a step above and below k are therefore both
    tried on the pipeline.
    """
    usual = strength(k / steps, steps)
    if not hasattr(pipeline, "get_timesteps"):
        return usual
    kept = pipeline.scheduler.timesteps
    pipeline.scheduler.timesteps = torch.arange(steps * pipeline.scheduler.order)
    try:
        for candidate in (usual, (k - 0.5) / steps):
            if pipeline.get_timesteps(steps, candidate, pipeline.device)[1] == k:
                return candidate
    finally:
        pipeline.scheduler.timesteps = kept
    return usual
