"""Rendering with pipelines outside the Stable Diffusion family, which are called unchanged."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoPipelineForText2Image
from PIL import Image

from genie.data.images import decode_source, square
from genie.plan.levels import denoising_steps, strength
from genie.plan.requests import Request
from genie.render.batches import widths
from genie.render.model import Generator
from genie.render.noise import noise_generator


@dataclass(frozen=True)
class GenericRenderer:
    """Renders batches, whose requests take the same number of steps, by calling the pipeline."""

    generator: Generator

    def __call__(
        self, batch: Sequence[Request], sources: Mapping[str, bytes], steps: int, size: int
    ) -> list[Image.Image]:
        """Render `batch`, at most `size` requests that take the same number of steps.

        `sources` maps image ids to PNG bytes, and `steps` is N.
        """
        rendered: dict[int, Image.Image] = {}
        for drawn in (False, True):
            indices = [i for i, q in enumerate(batch) if (q.source_id is None) == drawn]
            if indices:
                images = self._call([batch[i] for i in indices], sources, steps, size)
                rendered |= dict(zip(indices, images, strict=True))
        return [rendered[i] for i in range(len(batch))]

    def _call(
        self, batch: Sequence[Request], sources: Mapping[str, bytes], steps: int, size: int
    ) -> list[Image.Image]:
        info, k = self.generator.info, denoising_steps(batch[0].r, steps)
        width = sum(widths(len(batch), size))
        padded = [*batch, *[batch[-1]] * (width - len(batch))]
        options: dict[str, Any] = {
            "prompt": [q.prompt for q in padded],
            "num_inference_steps": steps,
            "guidance_scale": info.guidance_scale,
            "generator": [noise_generator(q) for q in padded],
        }
        pipeline = self.generator.pipeline
        if info.heeds_negative:
            options["negative_prompt"] = [q.negative_prompt for q in padded]
        if batch[0].source_id is None:
            pipeline = AutoPipelineForText2Image.from_pipe(pipeline)
            pipeline.set_progress_bar_config(disable=True)
            options |= {"height": info.size, "width": info.size}
        else:
            names = [q.source_id for q in padded if q.source_id is not None]
            images = [decode_source(sources, name) for name in names]
            options["image"] = [square(image, info.size) for image in images]
            if _spreads_steps(pipeline):
                options |= {"num_inference_steps": k, "strength": k / steps}
            else:
                options["strength"] = _strength_for(pipeline, k, steps)
        return list(pipeline(**options).images[: len(batch)])


def _spreads_steps(pipeline: Any) -> bool:
    """Return whether the pipeline spreads all its steps over the range given by `strength`.

    LCM's pipeline does, and is therefore called with k steps and strength k / N. Other pipelines
    run only the last k of their N steps.
    """
    return "original_inference_steps" in inspect.signature(pipeline.__call__).parameters


def _strength_for(pipeline: Any, k: int, steps: int) -> float:
    """Return the strength at which this pipeline denoises k of N steps.

    Pipelines round differently. Stable Diffusion takes int(N * strength) steps, while Stable
    Diffusion 3 and Flux round up. Therefore the strengths half a step above and half a step below k
    are both tried on the pipeline.
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
