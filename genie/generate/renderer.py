"""The renderer: a generator with its settings and the store that caches its images."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors.torch import load_file

from genie.data.images import decode_image
from genie.errors import GenieError
from genie.generate.cluster import Cluster, Workers, connect, render_on_ray
from genie.generate.described import Described
from genie.generate.keys import request_key
from genie.generate.model import Generator, load_generator
from genie.generate.noise import denoising_steps
from genie.generate.render import default_batch_size, render
from genie.generate.request import Request
from genie.generate.shared import SharedStore
from genie.generate.speed import fastest_batch_size, forecast
from genie.generate.store import Picture, Take, ensure, store_path

log = logging.getLogger(__name__)

Rendered = tuple[Request, Picture]
Watch = Callable[[Iterable[Rendered], int], Iterable[Rendered]]
"""Wraps the iterator of rendered images, given their total, for example in a progress bar."""


@dataclass(frozen=True)
class Cost:
    """The cost of images: of all that were needed, and of those rendered in this run.

    It counts distinct images and guided denoising steps. `batch_size` is the smallest one used,
    since it is halved when memory runs out. `in_float32` counts images that came out black in half
    precision and were rendered again.
    """

    needed: int
    found: int
    rendered: int
    guided_steps_needed: int
    guided_steps_rendered: int
    seconds: float
    batch_size: int
    in_float32: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            needed=self.needed + other.needed,
            found=self.found + other.found,
            rendered=self.rendered + other.rendered,
            guided_steps_needed=self.guided_steps_needed + other.guided_steps_needed,
            guided_steps_rendered=self.guided_steps_rendered + other.guided_steps_rendered,
            seconds=self.seconds + other.seconds,
            batch_size=min(self.batch_size, other.batch_size),
            in_float32=self.in_float32 + other.in_float32,
        )


@dataclass(frozen=True)
class Renderer:
    """All that images are rendered with, apart from their requests.

    `steps` is the number of denoising steps of a full rendering; previews take fewer. `sources`
    maps image_id to PNG bytes. `store` is the folder of the image store. `on_image` is called after
    each rendered image with its number of guided steps. `before_batch` is called when a batch is
    about to start; it may raise to end the run, and earlier batches are stored. `workers` render on
    Ray instead of this process, and `generator` then only describes their model. `shared` is a
    second store, such as one on S3.
    """

    generator: Generator | Described
    steps: int
    guidance_scale: float
    batch_size: int
    sources: Mapping[str, bytes]
    store: Path
    watch: Watch = lambda images, total: images
    on_image: Callable[[int], None] = lambda guided_steps: None
    before_batch: Callable[[], None] = lambda: None
    workers: Workers | None = None
    shared: SharedStore | None = None

    def add_tokens(self, files: Iterable[Path]) -> None:
        """Make learned tokens known to the workers; this process's generator knows them."""
        if self.workers is not None:
            for file in files:
                self.workers.tokens.update(load_file(file))

    def key(self, request: Request, steps: int) -> str:
        """Return the request's key at this number of steps."""
        return request_key(request, self.generator, steps=steps, guidance_scale=self.guidance_scale)

    def png(self, key: str) -> bytes:
        """Read the PNG bytes of an image in the store."""
        return store_path(self.store, key).read_bytes()

    def picture(self, key: str) -> Image.Image:
        """Read an image in the store."""
        return decode_image(self.png(key))

    def ensure(self, requests: Sequence[Request], *, steps: int, later: int | None = 0) -> Cost:
        """Render the images that the store lacks and return the cost.

        A forecast is logged first, which includes the `later` guided steps of a following call.
        With `later` None, nothing is logged, because an earlier forecast included this call.
        """
        start = time.perf_counter()
        rendered_steps: list[int] = []
        sizes = [self.batch_size]
        in_float32: list[Request] = []
        announced = later is None
        keys = {request: self.key(request, steps) for request in requests}

        def draw(missing: Sequence[Request], take: Take) -> Iterator[Rendered]:
            nonlocal announced
            if not announced:
                self._announce(len(set(keys.values())), missing, steps=steps, later=later or 0)
                announced = True

            def take_batch(batch: Sequence[Request]) -> list[Request]:
                self.before_batch()
                return take(batch)

            drawn = self._draw(
                missing,
                sources=self.sources,
                steps=steps,
                guidance_scale=self.guidance_scale,
                batch_size=self.batch_size,
                halved=sizes.append,
                again=in_float32.extend,
                take=take_batch,
            )
            for request, image in self.watch(drawn, len(missing)):
                rendered_steps.append(denoising_steps(request.r, steps))
                self.on_image(rendered_steps[-1])
                yield request, image

        counts = ensure(
            requests,
            root=self.store,
            key_of=keys.__getitem__,
            render=draw,
            shared=self.shared,
            all_at_once=self.workers is not None,
        )
        needed = {keys[request]: denoising_steps(request.r, steps) for request in requests}
        return Cost(
            needed=counts.needed,
            found=counts.found,
            rendered=counts.rendered,
            guided_steps_needed=sum(needed.values()),
            guided_steps_rendered=sum(rendered_steps),
            seconds=time.perf_counter() - start,
            batch_size=sizes[-1],
            in_float32=len(in_float32),
        )

    def _draw(self, missing: Sequence[Request], **options: Any) -> Iterator[Rendered]:
        if self.workers is not None:
            return render_on_ray(missing, self.workers, **options)
        assert isinstance(self.generator, Generator)
        return render(missing, self.generator, **options)

    def _announce(self, needed: int, missing: Sequence[Request], *, steps: int, later: int) -> None:
        line = forecast(
            self.generator,
            guidance_scale=self.guidance_scale,
            batch_size=self.batch_size,
            needed=needed,
            missing=len(missing),
            guided=sum(denoising_steps(request.r, steps) for request in missing),
            later=later,
        )
        log.info(line)


def load_renderer(
    folder: Path,
    *,
    sources: Mapping[str, bytes],
    store: Path,
    steps: int | None = None,
    guidance_scale: float | None = None,
    batch_size: int | Literal["probe"] | None = None,
    compile: bool | None = None,
    dtype: torch.dtype | None = None,
    watch: Watch = lambda images, total: images,
    on_image: Callable[[int], None] = lambda guided_steps: None,
    before_batch: Callable[[], None] = lambda: None,
    cluster: Cluster | None = None,
    shared: SharedStore | None = None,
) -> Renderer:
    """Load the renderer of a diffusers folder, on this machine or on the workers of a cluster.

    None selects the default of the model or the device. `batch_size` "probe" measures the fastest
    one. Raise the errors of `load_generator` and `connect`, and GenieError if the batch size of a
    cluster is to be measured.
    """
    workers = None
    generator: Generator | Described
    if cluster is None:
        generator = load_generator(folder, compile=compile, dtype=dtype)
        default = default_batch_size(generator)
    else:
        workers = connect(cluster, folder, compile=compile, dtype=dtype)
        generator, default = workers.generator, workers.generator.batch_size
    guidance = generator.guidance_scale if guidance_scale is None else guidance_scale
    size = batch_size or default
    if size == "probe":
        if not isinstance(generator, Generator):
            raise GenieError(
                "generator.batch_size probe measures this machine, but the workers of Ray render; "
                "give a number, or null for the default of their device"
            )
        size = fastest_batch_size(generator, guidance_scale=guidance)
        log.info("%d images at a time are the fastest on this machine", size)
    return Renderer(
        generator,
        steps=steps or generator.steps,
        guidance_scale=guidance,
        batch_size=size,
        sources=sources,
        store=store,
        watch=watch,
        on_image=on_image,
        before_batch=before_batch,
        workers=workers,
        shared=shared,
    )
