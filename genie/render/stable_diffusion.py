"""Rendering with the Stable Diffusion family: a batched `StableDiffusionImg2ImgPipeline`.

The renderer performs the same steps as diffusers' pipeline, with three differences: requests are
batched across sources, targets and noise ratios; every source and prompt is encoded once; every
image gets its own noise. It departs from the defaults of diffusers as follows:

- The scheduler is DPM-Solver++ multistep, as in the authors' code, with
  `timestep_spacing="linspace"`. The last k of N steps then start within one timestep of 1000 k / N.
  With Stable Diffusion's default "leading", r = 0.9 would start near timestep 856.
- If r N is not an integer, rendering starts at r and spaces its k steps evenly, while diffusers
  starts at k / N. Levels that would otherwise coincide therefore differ even with few steps.
- Sources are encoded as the mode of the VAE's posterior instead of a sample, as in the authors'
  code.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image

from genie.data.images import decode_source
from genie.plan.levels import coincides, denoising_steps
from genie.plan.requests import Request
from genie.render.batches import WINDOW, padded, widths
from genie.render.model import Generator, dpm_solver, encode_images
from genie.render.noise import initial_noise

_CODEC_BATCH = 8  # images per VAE call; a VAE's activations are far larger than a denoiser's


class _LRUCache(OrderedDict[str, torch.Tensor]):
    """A cache of the `capacity` most recently used tensors, by name."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity

    def __getitem__(self, name: str) -> torch.Tensor:
        self.move_to_end(name)
        return super().__getitem__(name)

    def __setitem__(self, name: str, value: torch.Tensor) -> None:
        super().__setitem__(name, value)
        if len(self) > self._capacity:
            self.popitem(last=False)


class StableDiffusionRenderer:
    """Renders batches, sorted by descending number of steps, with a Stable Diffusion model."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.pipeline = generator.pipeline
        side = generator.info.size // self.pipeline.vae_scale_factor
        self.shape = (self.pipeline.vae.config.latent_channels, side, side)
        self.prompts = _LRUCache(WINDOW)
        self.latents = _LRUCache(WINDOW)

    @torch.inference_mode()
    def __call__(
        self, batch: Sequence[Request], sources: Mapping[str, bytes], steps: int, size: int
    ) -> list[Image.Image]:
        """Render `batch`, at most `size` requests in descending order of steps.

        `sources` maps image ids to PNG bytes, and `steps` is N.
        """
        levels, latents = [], []
        self._encode_sources([q.source_id for q in batch if q.source_id is not None], sources)
        for r, requests in groupby(batch, key=lambda q: round(q.r, 12)):
            group = list(requests)
            scheduler = self._scheduler(r, steps)
            latents.append(self._noisy_latents(group, scheduler))
            levels.append((len(group), scheduler))
        embeddings = self._embeddings(batch)
        denoised = self._denoise(torch.cat(latents), embeddings, levels, size)
        return self._decode(denoised, min(size, _CODEC_BATCH))

    def _scheduler(self, r: float, steps: int) -> Any:
        """Return a solver that is set to the k timesteps for r."""
        scheduler = dpm_solver(self.pipeline.scheduler.config)
        k = denoising_steps(r, steps)
        if coincides(r, steps):
            scheduler.set_timesteps(steps)
            timesteps = scheduler.timesteps[-k:].tolist()
        else:
            last = scheduler.config.num_train_timesteps - 1
            timesteps = np.linspace(0, r * last, k + 1).round()[:0:-1].astype(int).tolist()
        scheduler.set_timesteps(timesteps=timesteps, device=self.generator.info.device)
        scheduler.set_begin_index(0)
        return scheduler

    def _noisy_latents(self, batch: Sequence[Request], scheduler: Any) -> torch.Tensor:
        """Return float32 latents (B, 4, h, w).

        These are the sources, noised to the first timestep, or pure noise for text-to-image.
        """
        noise = torch.stack([initial_noise(q, self.shape) for q in batch])
        clean = [
            torch.zeros(self.shape) if q.source_id is None else self.latents[q.source_id]
            for q in batch
        ]
        first = scheduler.timesteps[:1].cpu().repeat(len(batch))
        noised = scheduler.add_noise(torch.stack(clean), noise, first)
        drawn = torch.tensor([q.source_id is None for q in batch]).view(-1, 1, 1, 1)
        latents = torch.where(drawn, noise * scheduler.init_noise_sigma, noised)
        return latents.to(self.generator.info.device)

    def _embeddings(self, batch: Sequence[Request]) -> torch.Tensor:
        """Return prompt embeddings (halves, B, tokens, d).

        With guidance, the first of two halves contains the negative prompts.
        """
        halves = [[q.prompt for q in batch]]
        if self.generator.info.guidance_scale > 1:
            halves.insert(0, [q.negative_prompt for q in batch])
        return torch.stack(
            [torch.stack([self._embedding(text) for text in texts]) for texts in halves]
        )

    def _denoise(
        self,
        latents: torch.Tensor,
        embeddings: torch.Tensor,
        levels: Sequence[tuple[int, Any]],
        size: int,
    ) -> torch.Tensor:
        """Denoise latents (B, 4, h, w).

        `levels` lists the number of images and the scheduler of each level, in descending order of
        steps. A level with fewer steps joins later, so that all levels end together. Each level
        uses its own scheduler, whose first step is of first order.
        """
        parts = list(latents.split([count for count, _ in levels]))
        for left in range(len(levels[0][1].timesteps), 0, -1):
            joined = [(n, s) for n, s in levels if len(s.timesteps) >= left]
            counts = [count for count, _ in joined]
            at = [scheduler.timesteps[-left] for _, scheduler in joined]
            timesteps = torch.cat([t.expand(count) for t, count in zip(at, counts, strict=True)])
            running = torch.cat(parts[: len(joined)])
            predicted = self._predict(running, timesteps, embeddings[:, : len(running)], size)
            for i, prediction in enumerate(predicted.split(counts)):
                (parts[i],) = joined[i][1].step(prediction, at[i], parts[i], return_dict=False)
        return torch.cat(parts)

    def _predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor, size: int
    ) -> torch.Tensor:
        """Predict the guided noise (n, 4, h, w) in float32 for n <= `size` images.

        This takes one denoiser call with `size` images, or several calls with fewer images.
        """
        denoiser = self.generator.denoiser
        assert denoiser is not None, "only the Stable Diffusion family comes here"
        predicted, start = [], 0
        for width in widths(len(latents), size):
            rows = slice(start, start + width)
            start += width
            parts = [padded(x, width) for x in (latents[rows], timesteps[rows])]
            x, t = (torch.cat([part] * len(embeddings)) for part in parts)
            texts = torch.cat([padded(half[rows], width) for half in embeddings])
            halves = denoiser(x.to(self.pipeline.dtype), t, texts).float().split(width)
            negative, positive = halves[0], halves[-1]  # equal without guidance
            guided = negative + self.generator.info.guidance_scale * (positive - negative)
            predicted.append(guided)
        return torch.cat(predicted)[: len(latents)]

    def _embedding(self, text: str) -> torch.Tensor:
        """Return the embedding (tokens, d) of a prompt, encoded by the pipeline and cached."""
        if text not in self.prompts:
            embedding, _ = self.pipeline.encode_prompt(
                text, self.generator.info.device, 1, do_classifier_free_guidance=False
            )
            self.prompts[text] = embedding[0]
        return self.prompts[text]

    def _encode_sources(self, names: Sequence[str], sources: Mapping[str, bytes]) -> None:
        """Encode the sources that are not cached yet, as scaled modes of the VAE's posterior.

        The last batch is padded with copies of the last source.
        """
        missing = sorted({name for name in names if name not in self.latents})
        for start in range(0, len(missing), _CODEC_BATCH):
            part = missing[start : start + _CODEC_BATCH]
            full = [*part, *[part[-1]] * (_CODEC_BATCH - len(part))]
            images = [decode_source(sources, name) for name in full]
            encoded = encode_images(images, self.generator)
            for name, latents in zip(part, encoded, strict=False):
                self.latents[name] = latents

    def _decode(self, latents: torch.Tensor, width: int) -> list[Image.Image]:
        """Decode latents (n, 4, h, w), `width` at a time."""
        count = len(latents)
        latents = (latents / self.pipeline.vae.config.scaling_factor).to(self.pipeline.dtype)
        images: list[Image.Image] = []
        for part in latents.split(width):
            part = padded(part, width).contiguous(memory_format=torch.channels_last)
            (pixels,) = self.pipeline.vae.decode(part, return_dict=False)
            images += self.pipeline.image_processor.postprocess(_finite(pixels), output_type="pil")
        return images[:count]


def _finite(pixels: torch.Tensor) -> torch.Tensor:
    """Return pixels (n, 3, H, W) in float32; images that contain NaN or infinity become black."""
    pixels = pixels.float()
    finite = pixels.isfinite().all(dim=(1, 2, 3), keepdim=True)
    return torch.where(finite, pixels, -1.0)
