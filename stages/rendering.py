"""Rendering what a stage asks for: from the store where it is there, under a progress bar."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from genie.generator import Generator, load_generator
from genie.noise import denoising_steps
from genie.records import Request, decode_png
from genie.rendering import (
    default_batch_size,
    fastest_batch_size,
    measure_speed,
    render,
    request_key,
)
from genie.store import ensure, store_path
from stages.common import store_folder
from stages.params import Params

_SHORT = 100  # steps per image of one batch
_LONG_MINUTES = 30


@dataclass(frozen=True)
class Rendering:
    """What an image is rendered with, apart from the request.

    `steps` are those of a full rendering; previews take fewer.
    """

    generator: Generator
    steps: int
    guidance_scale: float
    batch_size: int
    sources: Mapping[str, bytes]
    store: Path

    def key(self, request: Request, steps: int) -> str:
        """The request's key at this number of steps."""
        return request_key(request, self.generator, steps=steps, guidance_scale=self.guidance_scale)

    def picture(self, key: str) -> Image.Image:
        """An image that is in the store."""
        return decode_png(store_path(self.store, key).read_bytes())


def load_rendering(params: Params, root: Path, images: pd.DataFrame) -> Rendering:
    """The generator of the parameters with the support images as sources."""
    dtype = params.generator.dtype
    generator = load_generator(
        Path(params.generator.model),
        compile=params.generator.compile,
        dtype=getattr(torch, dtype) if dtype else None,
    )
    guidance = params.generator.guidance_scale
    guidance = generator.guidance_scale if guidance is None else guidance
    size = params.generator.batch_size or default_batch_size(generator)
    if size == "probe":
        size = fastest_batch_size(generator, guidance_scale=guidance)
        tqdm.write(f"generate: {size} images at a time are the fastest here")
    return Rendering(
        generator,
        steps=params.generator.steps or generator.steps,
        guidance_scale=guidance,
        batch_size=size,
        sources=dict(zip(images["image_id"], images["png"], strict=True)),
        store=store_folder(root),
    )


def forecast(rendering: Rendering, *, needed: int, missing: int, guided: int, later: int) -> str:
    """What the work ahead costs, and how to cut it where that is long.

    `later` guided steps will follow these, for the levels that previews choose. Short work is not
    measured: its progress bar knows sooner.
    """
    line = (
        f"generate: {needed} images needed, {needed - missing} in the store; {missing} to render "
        f"in {guided:,} guided steps"
    )
    size = rendering.batch_size
    if later:
        line += f", then about {later:,} for the chosen levels"
    if guided + later < _SHORT * size:
        return line
    speed = measure_speed(
        rendering.generator, guidance_scale=rendering.guidance_scale, batch_size=size
    )
    minutes = (guided + later) / speed.guided_steps / 60
    line += (
        f"; about {minutes:.0f} min at {speed.guided_steps:.0f} steps per second and "
        f"{missing * speed.image_bytes / 1e6:.0f} MB"
    )
    if minutes > _LONG_MINUTES:
        line += (
            "\nTo cut it: noise.search=preview in place of exact, fewer levels (noise.M), images "
            "(augment.per_class) or tasks, or a GPU. Stop it whenever you like: finished images "
            "are kept."
        )
    return line


def render_with_cost(
    requests: Sequence[Request], rendering: Rendering, *, steps: int, later: int | None = 0
) -> dict[str, int | float]:
    """Render what the store lacks under a progress bar; what that cost.

    Counts of images and guided steps, seconds, and the batch size, which is smaller than asked for
    where memory did not suffice. `later` as in `forecast`; None where it was forecast before.
    """
    rendered: list[int] = []
    sizes = [rendering.batch_size]

    def counted(missing: Sequence[Request]) -> Iterator[tuple[Request, Image.Image]]:
        guided = sum(denoising_steps(request.r, steps) for request in missing)
        if later is not None:
            counts = {"needed": len(keys), "missing": len(missing), "guided": guided}
            tqdm.write(forecast(rendering, **counts, later=later))
        drawn = render(
            missing,
            rendering.generator,
            sources=rendering.sources,
            steps=steps,
            guidance_scale=rendering.guidance_scale,
            batch_size=rendering.batch_size,
            halved=sizes.append,
        )
        for request, image in tqdm(
            drawn, total=len(missing), desc="generate", unit="image", dynamic_ncols=True
        ):
            rendered.append(denoising_steps(request.r, steps))
            yield request, image

    start = time.perf_counter()
    keys = {request: rendering.key(request, steps) for request in requests}
    counts = ensure(requests, root=rendering.store, key_of=keys.__getitem__, render=counted)
    needed = {keys[request]: denoising_steps(request.r, steps) for request in requests}
    return {
        **counts,
        "guided_steps_needed": sum(needed.values()),
        "guided_steps_rendered": sum(rendered),
        "seconds": round(time.perf_counter() - start, 2),
        "batch_size": sizes[-1],
    }


def in_all(costs: Sequence[Mapping[str, int | float]]) -> dict[str, int | float]:
    """The sums of several costs; of their batch sizes the least."""
    return {
        name: (min if name == "batch_size" else sum)(cost[name] for cost in costs)
        for name in costs[0]
    }
