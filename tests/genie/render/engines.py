"""Engines for tests: one that draws plain colours without a model, and local ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from genie.data.images import decode_image, encode_png
from genie.plan.levels import denoising_steps
from genie.plan.requests import Request
from genie.render.batches import batches
from genie.render.engine import LocalEngine, Rendered
from genie.render.model import Generator
from genie.render.model import _takes_negative as takes_negative
from genie.render.model_info import STABLE_DIFFUSION, ModelInfo

REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "", 0.7, 0, 0, "")
SOURCES = {"a": b""}
STEPS = 5

INFO = ModelInfo(
    name="colours",
    fingerprint="0" * 64,
    family=STABLE_DIFFUSION,
    size=8,
    steps=STEPS,
    guidance_scale=3.0,
    batch_size=5,
    precision="torch.float32",
    scheduler="DPMSolverMultistepScheduler",
    device="cpu",
    heeds_negative=True,
)


def image_of(request: Request) -> Image.Image:
    """The image that `FakeEngine` draws: a colour per replicate."""
    return Image.new("RGB", (8, 8), (request.replicate, 0, 0))


def png_of(request: Request) -> bytes:
    return encode_png(image_of(request))


class FakeEngine:
    """Draws one image after the other and notes them; is interrupted after `lives` images."""

    def __init__(self, *, lives: int | None = None, at_once: int = 1, **changes: Any) -> None:
        self.lives = lives
        self.at_once = at_once
        self.info = replace(INFO, **changes)
        self.rendered: list[Request] = []
        self.calls: list[list[int]] = []
        """The sizes of the batches of each call."""

    def render(
        self, batches: Sequence[Sequence[Request]], sources: Mapping[str, bytes], steps: int
    ) -> Iterator[list[Rendered]]:
        self.calls.append([len(batch) for batch in batches])
        for batch in batches:
            for request in batch:
                if self.lives == len(self.rendered):
                    raise KeyboardInterrupt
                self.rendered.append(request)
                k = denoising_steps(request.r, steps)
                yield [Rendered(request, png_of(request), k, self.info.batch_size)]

    def generator(self) -> Generator:
        raise NotImplementedError

    def add_tokens(self, tokens: Mapping[str, Path]) -> None:
        raise NotImplementedError


def with_info(generator: Generator, **changes: Any) -> Generator:
    """The model with other values in its description, such as another batch size."""
    return replace(generator, info=replace(generator.info, **changes))


def results_of(
    requests: Sequence[Request],
    generator: Generator,
    sources: Mapping[str, bytes],
    *,
    steps: int = STEPS,
    **changes: Any,
) -> dict[Request, Rendered]:
    """Render in batches with a model whose description has the given changes.

    The guidance scale is 3 and the batch size 4 unless they are changed.
    """
    changes = {"guidance_scale": 3.0, "batch_size": 4} | changes
    heeds = takes_negative(generator.pipeline) and changes["guidance_scale"] > 1
    changed = with_info(generator, heeds_negative=heeds, **changes)
    info = changed.info
    grouped = list(batches(requests, steps, info.batch_size, mixed=info.starts_anywhere))
    drawn = LocalEngine(changed).render(grouped, sources, steps)
    results = [result for part in drawn for result in part]
    assert len(results) == len(requests), "each request has one image"
    return {result.request: result for result in results}


def rendered(
    requests: Sequence[Request],
    generator: Generator,
    sources: Mapping[str, bytes],
    *,
    steps: int = STEPS,
    **changes: Any,
) -> dict[Request, Image.Image]:
    """The images of `results_of`."""
    results = results_of(requests, generator, sources, steps=steps, **changes)
    return {request: decode_image(result.png) for request, result in results.items()}
