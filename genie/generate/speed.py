"""Rendering speed of this machine, and forecasts of the time that rendering will take."""

import time
from dataclasses import dataclass

from PIL import Image

from genie.data.images import encode_png
from genie.generate.described import Described
from genie.generate.model import Generator
from genie.generate.render import default_batch_size, render
from genie.generate.request import Request

SHORT = 100  # guided steps per image of a batch, below which measuring does not pay
LONG_MINUTES = 30


@dataclass(frozen=True)
class Speed:
    """Guided denoising steps per second, including decoding, and mean bytes of a PNG image."""

    guided_steps: float
    image_bytes: float


def measure_speed(
    generator: Generator, *, guidance_scale: float | None = None, batch_size: int | None = None
) -> Speed:
    """Measure the speed by rendering one batch for about a second.

    The estimate is good enough to tell minutes from hours.
    """
    size = batch_size or default_batch_size(generator)
    batch = [Request(None, None, "", "", "", 1.0, replicate, 0, "") for replicate in range(size)]

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
    """Return the batch size with the most guided steps per second.

    The search starts at a quarter of the default and doubles the size while that gains at least 5%.
    The batch size changes images only by rounding.
    """
    size = max(1, default_batch_size(generator) // 4)
    best = measure_speed(generator, guidance_scale=guidance_scale, batch_size=size).guided_steps
    while True:
        speed = measure_speed(generator, guidance_scale=guidance_scale, batch_size=2 * size)
        if speed.guided_steps < 1.05 * best:
            return size
        size, best = 2 * size, speed.guided_steps


def forecast(
    generator: Generator | Described,
    *,
    guidance_scale: float,
    batch_size: int,
    needed: int,
    missing: int,
    guided: int,
    later: int,
) -> str:
    """Return a message with the expected cost, and with ways to reduce it if it exceeds
    LONG_MINUTES.

    `missing` of the `needed` images take `guided` guided steps. About `later` more steps follow for
    the levels that previews choose. Work of at least SHORT guided steps per image of a batch is
    timed first, which renders three batches. For shorter work the progress bar gives an estimate
    sooner. So it does for the workers of a cluster, whose model `generator` only describes.
    """
    line = (
        f"{needed} images needed, {needed - missing} in the store; {missing} to render in "
        f"{guided:,} guided steps"
    )
    if later:
        line += f", then about {later:,} for the chosen levels"
    if guided + later < SHORT * batch_size or not isinstance(generator, Generator):
        return line
    speed = measure_speed(generator, guidance_scale=guidance_scale, batch_size=batch_size)
    minutes = (guided + later) / speed.guided_steps / 60
    line += (
        f"; about {minutes:.0f} min at {speed.guided_steps:.0f} steps per second and "
        f"{missing * speed.image_bytes / 1e6:.0f} MB"
    )
    if minutes > LONG_MINUTES:
        line += (
            "\nTo reduce this, use noise.search=preview instead of exact, fewer levels (noise.M), "
            "fewer images (augment.per_class), fewer tasks, or a GPU. You can stop at any time: "
            "finished images are kept."
        )
    return line
