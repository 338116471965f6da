"""Renders batches of requests: noised sources, denoised under other prompts.

`render` takes requests in any number and yields (request, image) in the order that is fastest.

The Stable Diffusion family takes the fast path, which follows `StableDiffusionImg2ImgPipeline`
step by step and differs in three things only: requests are batched across sources, targets and
noise ratios, every source and prompt is encoded once, and every image has its own noise.
Any other image-to-image pipeline is called as it is, in batches with one random generator per
image; so are models distilled to few steps (LCM, Turbo and their like), whose own scheduler is part
of what they learned. Departures of the fast path from diffusers' defaults:

- The scheduler is DPM-Solver++ multistep, as in the authors' code, with
  `timestep_spacing="linspace"`: then k of N steps start within one of timestep 1000 k / N, where
  Stable Diffusion's own "leading" starts r = 0.9 near 856.
- Where r N is not whole, it still starts at r and spreads its k steps evenly; diffusers starts at
  k / N. So few steps tell levels apart that would coincide.
- It takes the mode of the VAE's posterior, as the authors do, not a sample. (Other pipelines
  sample it, from the request's own random generator.)
"""

import hashlib
import inspect
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from diffusers import AutoPipelineForText2Image
from PIL import Image

from genie.errors import GenieError
from genie.generator import Generator, dpm_solver, encode_images, fit
from genie.noise import (
    coincides,
    denoising_steps,
    initial_noise,
    noise_generator,
    noise_seed,
    strength,
)
from genie.records import Request, decode_png, encode_png

RENDER_VERSION = 1  # raise it whenever a change here changes pixels

_WINDOW = 1024  # sources in memory at once; also bounds the cached prompts
_CODEC_BATCH = 8  # images per call of the VAE, whose activations dwarf the denoiser's

log = logging.getLogger(__name__)


def request_key(
    request: Request, generator: Generator, *, steps: int, guidance_scale: float
) -> str:
    """SHA-256 (hex) over all that decides a request's pixels, and nothing else.

    The source counts by content, r by the steps it means (0.7 and 0.7000000000000001 are one) and
    by itself where it lies between two steps, the target's label through prompt and noise.
    """
    parts = {
        "source": request.source_id,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "denoised": denoising_steps(request.r, steps),
        "steps": steps,
        "guidance_scale": float(guidance_scale),
        "scheduler": generator.scheduler,
        "noise": noise_seed(
            request.seed, request.source_id, request.target_label, request.replicate
        ),
        "size": generator.size,
        "generator": generator.fingerprint,
        "dtype": str(generator.dtype),
        "version": RENDER_VERSION,
    }
    if generator.fast and not coincides(request.r, steps):
        parts["r"] = round(request.r, 12)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def default_batch_size(generator: Generator) -> int:
    """Images per call of the denoiser where nobody asked for another number.

    CPU: 32 for latents of 8x8 (for a 4 M parameter denoiser on two cores a tenth faster than 16; 64
    gains little more, and small jobs fill it less), 16 up to 16x16, else 2 for memory. GPU: 256 for
    such latents, 32 up to 64x64, else 8, none of them measured: `fastest_batch_size` measures.
    """
    side = generator.size // generator.pipeline.vae_scale_factor
    if generator.device == "cpu":
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
) -> Iterator[tuple[Request, Image.Image]]:
    """Yield every request with its RGB image of `generator.size`, in the order that is fastest.

    `sources` maps image_id to PNG bytes. Requests are grouped by step count; what is left over of
    each step count shares batches, whose images join in as their first step comes. The denoiser
    sees batches of three sizes only: `batch_size`, its quarter and its sixteenth. An image is the
    same whatever its neighbours and the batch size, within rounding. Memory does not grow with the
    number of requests. Out of GPU memory, the batch size is halved for the rest of the call, and
    `halved` is told the new one.
    GenieError if a request's source is not in `sources`.
    """
    guidance_scale = generator.guidance_scale if guidance_scale is None else guidance_scale
    size = batch_size or default_batch_size(generator)
    if size < 1:
        raise GenieError(f"batch_size must be at least 1, got {size}; leave it out for the default")
    _require_sources(requests, sources)
    if any(q.negative_prompt for q in requests) and not _heeds_negative(generator, guidance_scale):
        log.warning(
            "negative prompts have no effect with %s at guidance_scale %g: it must exceed 1 and "
            "the pipeline must take negative_prompt; leave them empty or choose another model",
            generator.name,
            guidance_scale,
        )
    path = _FastPath if generator.fast else _PlainPath
    renderer = path(generator, sources, steps, guidance_scale)
    for batch in _batches(requests, steps, size, mixed=generator.fast):
        start = 0
        while start < len(batch):
            part = batch[start : start + size]
            try:
                images = renderer(part, size)
            except torch.cuda.OutOfMemoryError:
                size = _halved(size)
                halved(size)
                continue
            yield from zip(part, images, strict=True)
            start += len(part)


@dataclass(frozen=True)
class Speed:
    """Guided denoising steps per second, decoding included, and bytes of an image as PNG."""

    guided_steps: float
    image_bytes: float


def measure_speed(
    generator: Generator, *, guidance_scale: float | None = None, batch_size: int | None = None
) -> Speed:
    """Render one batch for about a second and see: enough to tell minutes from hours."""
    size = batch_size or default_batch_size(generator)
    batch = [Request(None, None, "", "", "", 1.0, replicate, 0) for replicate in range(size)]

    def timed(steps: int) -> tuple[float, list[Image.Image]]:
        start = time.perf_counter()
        drawn = render(
            batch, generator, sources={}, steps=steps,
            guidance_scale=guidance_scale, batch_size=size,
        )  # fmt: skip
        images = [image for _, image in drawn]
        return time.perf_counter() - start, images

    timed(1)  # compiles, loads and caches
    once, _ = timed(1)
    steps = min(max(round(1 / once), 2), 10)
    seconds, images = timed(steps)
    mean = sum(len(encode_png(image)) for image in images) / size
    return Speed(steps * size / seconds, mean)


def fastest_batch_size(generator: Generator, *, guidance_scale: float | None = None) -> int:
    """The batch size with the most guided steps per second: doubled while that gains 5%.

    It starts at a quarter of the default. Another batch size gives the same images within rounding.
    """
    size = max(1, default_batch_size(generator) // 4)
    best = measure_speed(generator, guidance_scale=guidance_scale, batch_size=size).guided_steps
    while True:
        speed = measure_speed(generator, guidance_scale=guidance_scale, batch_size=2 * size)
        if speed.guided_steps < 1.05 * best:
            return size
        size, best = 2 * size, speed.guided_steps


def _require_sources(requests: Sequence[Request], sources: Mapping[str, bytes]) -> None:
    for request in requests:
        if request.source_id is not None and request.source_id not in sources:
            raise GenieError(
                f"every source image must be in the support set, {request.source_id} "
                f"({request.source_label}) is not; run `dvc repro` from prepare"
            )


def _heeds_negative(generator: Generator, guidance_scale: float) -> bool:
    takes = "negative_prompt" in inspect.signature(generator.pipeline.__call__).parameters
    return takes and guidance_scale > 1


def _batches(
    requests: Sequence[Request], steps: int, size: int, *, mixed: bool
) -> Iterator[list[Request]]:
    """At most `size` requests at a time, most steps first, from `_WINDOW` sources at a time.

    Of one step count, but for what is left over of each: that shares batches if `mixed`. Sorted by
    source, so each source falls into one window and is encoded once.
    """
    window = 0
    seen: set[str | None] = set()
    order = []
    for request in sorted(requests, key=lambda q: (q.source_id or "", q.target_label, q.prompt)):
        if request.source_id not in seen and len(seen) == _WINDOW:
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


def _halved(size: int) -> int:
    if size == 1:
        raise GenieError(
            "the generator must fit the GPU with one image at a time, but ran out of memory; "
            "use a GPU with more memory, or a smaller model"
        )
    torch.cuda.empty_cache()
    log.warning("out of GPU memory with %d images at a time, going on with %d", size, size // 2)
    return size // 2


class _Cache:
    """The `capacity` tensors used last, by name, made on demand."""

    def __init__(self, make: Callable[[str], torch.Tensor], capacity: int) -> None:
        self._make = make
        self._capacity = capacity
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._kept:
            self[name] = self._make(name)
        self._kept.move_to_end(name)
        return self._kept[name]

    def __setitem__(self, name: str, value: torch.Tensor) -> None:
        self._kept[name] = value
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def __contains__(self, name: str) -> bool:
        return name in self._kept


class _FastPath:
    """Renders one batch with a Stable Diffusion model, most steps first."""

    def __init__(
        self,
        generator: Generator,
        sources: Mapping[str, bytes],
        steps: int,
        guidance_scale: float,
    ) -> None:
        self.generator = generator
        self.sources = sources
        self.steps = steps
        self.guidance_scale = guidance_scale
        self.pipeline = generator.pipeline
        side = generator.size // self.pipeline.vae_scale_factor
        self.shape = (self.pipeline.vae.config.latent_channels, side, side)
        self.prompts = _Cache(self._encode_prompt, _WINDOW)
        self.latents = _Cache(lambda name: self._encode_sources([name])[0], _WINDOW)

    @torch.inference_mode()
    def __call__(self, batch: Sequence[Request], size: int) -> list[Image.Image]:
        """The images of `batch`, at most `size` of them."""
        levels, latents = [], []
        for r, own in groupby(batch, key=lambda q: round(q.r, 12)):
            group = list(own)
            scheduler = self._scheduler(r)
            latents.append(self._noisy_latents(group, scheduler))
            levels.append((len(group), scheduler))
        embeddings = self._embeddings(batch)
        denoised = self._denoise(torch.cat(latents), embeddings, levels, size)
        return self._decode(denoised, min(size, _CODEC_BATCH))

    def _scheduler(self, r: float) -> Any:
        """A solver whose timesteps are those that r needs, k of them."""
        scheduler = dpm_solver(self.pipeline.scheduler.config)
        k = denoising_steps(r, self.steps)
        if coincides(r, self.steps):
            scheduler.set_timesteps(self.steps)
            timesteps = scheduler.timesteps[-k:].tolist()
        else:
            last = scheduler.config.num_train_timesteps - 1
            timesteps = np.linspace(0, r * last, k + 1).round()[:0:-1].astype(int).tolist()
        scheduler.set_timesteps(timesteps=timesteps, device=self.generator.device)
        scheduler.set_begin_index(0)
        return scheduler

    def _noisy_latents(self, batch: Sequence[Request], scheduler: Any) -> torch.Tensor:
        """Float32 latents (B, 4, h, w): sources noised to the first timestep, or pure noise."""
        noise = torch.stack([initial_noise(q, self.shape) for q in batch])
        self._encode_missing([q.source_id for q in batch if q.source_id is not None])
        clean = [
            torch.zeros(self.shape) if q.source_id is None else self.latents[q.source_id]
            for q in batch
        ]
        first = scheduler.timesteps[:1].cpu().repeat(len(batch))
        noised = scheduler.add_noise(torch.stack(clean), noise, first)
        drawn = torch.tensor([q.source_id is None for q in batch]).view(-1, 1, 1, 1)
        latents = torch.where(drawn, noise * scheduler.init_noise_sigma, noised)
        return latents.to(self.generator.device)

    def _embeddings(self, batch: Sequence[Request]) -> torch.Tensor:
        """Prompt embeddings (halves, B, tokens, d): two under guidance, the negative one first."""
        halves = [[q.prompt for q in batch]]
        if self.guidance_scale > 1:
            halves.insert(0, [q.negative_prompt for q in batch])
        return torch.stack(
            [torch.stack([self.prompts[text] for text in texts]) for texts in halves]
        )

    def _denoise(
        self,
        latents: torch.Tensor,
        embeddings: torch.Tensor,
        levels: Sequence[tuple[int, Any]],
        size: int,
    ) -> torch.Tensor:
        """Denoised latents (B, 4, h, w) of `levels`: (images, scheduler), most steps first.

        All end together: a level with fewer steps joins in later. Each has a scheduler of its own,
        which starts at first order there.
        """
        parts = list(latents.split([count for count, _ in levels]))
        for left in range(len(levels[0][1].timesteps), 0, -1):
            joined = [(n, s) for n, s in levels if len(s.timesteps) >= left]
            counts = [count for count, _ in joined]
            at = [scheduler.timesteps[-left] for _, scheduler in joined]
            timesteps = torch.cat([t.expand(count) for t, count in zip(at, counts, strict=True)])
            running = torch.cat(parts[: len(joined)])
            predicted = self._predict(running, timesteps, embeddings[:, : len(running)], size)
            for i, own in enumerate(predicted.split(counts)):
                (parts[i],) = joined[i][1].step(own, at[i], parts[i], return_dict=False)
        return torch.cat(parts)

    def _predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor, size: int
    ) -> torch.Tensor:
        """Predicted noise (n, 4, h, w) in float32, guided: n <= `size` images.

        In one call of `size` or in several smaller ones.
        """
        denoiser = self.generator.denoiser
        assert denoiser is not None, "only the fast path comes here"
        predicted, start = [], 0
        for width in _widths(len(latents), size):
            own = slice(start, start + width)
            start += width
            padded = [_padded(x, width) for x in (latents[own], timesteps[own])]
            x, t = (torch.cat([part] * len(embeddings)) for part in padded)
            texts = torch.cat([_padded(half[own], width) for half in embeddings])
            halves = denoiser(x.to(self.pipeline.dtype), t, texts).float().split(width)
            negative, positive = halves[0], halves[-1]  # the same one without guidance
            guided = negative + self.guidance_scale * (positive - negative)
            predicted.append(guided)
        return torch.cat(predicted)[: len(latents)]

    def _encode_prompt(self, text: str) -> torch.Tensor:
        """(tokens, d), as the pipeline encodes it."""
        embedding, _ = self.pipeline.encode_prompt(
            text, self.generator.device, 1, do_classifier_free_guidance=False
        )
        return embedding[0]

    def _encode_missing(self, names: Sequence[str]) -> None:
        missing = sorted({name for name in names if name not in self.latents})
        for start in range(0, len(missing), _CODEC_BATCH):
            part = missing[start : start + _CODEC_BATCH]
            for name, latents in zip(part, self._encode_sources(part), strict=False):
                self.latents[name] = latents

    def _encode_sources(self, names: Sequence[str]) -> torch.Tensor:
        """Modes of the VAE's posterior (`_CODEC_BATCH`, 4, h, w), scaled; the last is repeated."""
        padded = [*names, *[names[-1]] * (_CODEC_BATCH - len(names))]
        return encode_images([decode_png(self.sources[name]) for name in padded], self.generator)

    def _decode(self, latents: torch.Tensor, width: int) -> list[Image.Image]:
        """The images of latents (n, 4, h, w), decoded `width` at a time."""
        count = len(latents)
        latents = (latents / self.pipeline.vae.config.scaling_factor).to(self.pipeline.dtype)
        images: list[Image.Image] = []
        for part in latents.split(width):
            part = _padded(part, width).contiguous(memory_format=torch.channels_last)
            (pixels,) = self.pipeline.vae.decode(part, return_dict=False)
            images += self.pipeline.image_processor.postprocess(pixels.float(), output_type="pil")
        return images[:count]


def _widths(count: int, size: int) -> list[int]:
    """How many images each call takes for `count` of them, of which the last call may be padded.

    Each is `size`, its quarter or its sixteenth: a denoiser that is compiled for its shapes has
    three of them at most, and small jobs waste less than the smallest.
    """
    shapes = [shape for shape in (size, size // 4, size // 16) if shape]
    widths = []
    for shape in shapes:
        while count > max(0, shape - shapes[-1]):
            widths.append(shape)
            count -= shape
    return widths


def _padded(values: torch.Tensor, length: int) -> torch.Tensor:
    """`length` values: the last is repeated."""
    return torch.cat([values, values[-1:].repeat(length - len(values), *[1] * (values.dim() - 1))])


@dataclass
class _PlainPath:
    """Renders one batch of equal step count by calling whatever pipeline was loaded."""

    generator: Generator
    sources: Mapping[str, bytes]
    steps: int
    guidance_scale: float

    def __call__(self, batch: Sequence[Request], size: int) -> list[Image.Image]:
        """The images of `batch`, all of one step count, at most `size` of them."""
        k = denoising_steps(batch[0].r, self.steps)
        rendered: dict[int, Image.Image] = {}
        for drawn in (False, True):
            places = [i for i, q in enumerate(batch) if (q.source_id is None) == drawn]
            if places:
                images = self._call([batch[i] for i in places], k, size)
                rendered |= dict(zip(places, images, strict=True))
        return [rendered[i] for i in range(len(batch))]

    def _call(self, batch: Sequence[Request], k: int, size: int) -> list[Image.Image]:
        width = sum(_widths(len(batch), size))
        padded = [*batch, *[batch[-1]] * (width - len(batch))]
        options: dict[str, Any] = {
            "prompt": [q.prompt for q in padded],
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "generator": [noise_generator(q) for q in padded],
        }
        pipeline = self.generator.pipeline
        if _heeds_negative(self.generator, self.guidance_scale):
            options["negative_prompt"] = [q.negative_prompt for q in padded]
        if batch[0].source_id is None:
            pipeline = AutoPipelineForText2Image.from_pipe(pipeline)
            pipeline.set_progress_bar_config(disable=True)
            options |= {"height": self.generator.size, "width": self.generator.size}
        else:
            pngs = [self.sources[q.source_id] for q in padded if q.source_id is not None]
            options["image"] = [fit(decode_png(png), self.generator.size) for png in pngs]
            if _spreads_steps(pipeline):
                options |= {"num_inference_steps": k, "strength": k / self.steps}
            else:
                options["strength"] = _strength_for(pipeline, k, self.steps)
        return list(pipeline(**options).images[: len(batch)])


def _spreads_steps(pipeline: Any) -> bool:
    """Whether it takes all its steps between the strength and the end, as LCM's pipeline does.

    Others take the last of them. So this one is asked for k steps from k / N on.
    """
    return "original_inference_steps" in inspect.signature(pipeline.__call__).parameters


def _strength_for(pipeline: Any, k: int, steps: int) -> float:
    """The strength at which this very pipeline denoises k of N steps.

    Pipelines round differently: Stable Diffusion takes int(N * strength) steps, Stable
    Diffusion 3 and Flux round up. So half a step more or less than k is tried on the pipeline.
    """
    usual = strength(k / steps, steps)
    if not hasattr(pipeline, "get_timesteps"):
        return usual
    pipeline.scheduler.timesteps = torch.arange(steps * pipeline.scheduler.order)
    for candidate in (usual, (k - 0.5) / steps):
        if pipeline.get_timesteps(steps, candidate, pipeline.device)[1] == k:
            return candidate
    return usual
