"""The rendering speed of this machine, and forecasts of rendering times."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genie.plan.forecast import forecast
from genie.plan.requests import Request
from genie.render.engine import Engine, LocalEngine, Rendered
from genie.render.model import Generator

SHORT = 100  # guided steps per image of a batch; with fewer, a measurement is not worthwhile
LONG_MINUTES = 30


@dataclass(frozen=True)
class Speed:
    """Guided denoising steps per second, including decoding, and mean size of a PNG in bytes."""

    guided_steps: float
    image_bytes: float


def measure_speed(engine: Engine) -> Speed:
    """Measure the speed by rendering one batch for about a second.

    The estimate is accurate enough to tell minutes from hours.
    """
    size = engine.info.batch_size
    batch = [Request(None, None, "", "", "", 1.0, replicate, 0, "") for replicate in range(size)]

    def timed(steps: int) -> tuple[float, list[Rendered]]:
        start = time.perf_counter()
        results = [result for part in engine.render([batch], {}, steps) for result in part]
        return time.perf_counter() - start, results

    timed(1)  # warm-up: compiles, loads and caches
    once, _ = timed(1)
    steps = min(max(round(1 / once), 2), 10)
    seconds, results = timed(steps)
    return Speed(steps * size / seconds, sum(len(result.png) for result in results) / size)


def fastest_batch_size(generator: Generator) -> int:
    """Return the batch size with the most guided steps per second.

    The search starts at a quarter of the default and doubles the size as long as this gains at
    least 5%. The batch size changes images only by rounding.
    """

    def speed(size: int) -> float:
        info = replace(generator.info, batch_size=size)
        return measure_speed(LocalEngine(replace(generator, info=info))).guided_steps

    size = max(1, generator.info.batch_size // 4)
    best = speed(size)
    while True:
        doubled = speed(2 * size)
        if doubled < 1.05 * best:
            return size
        size, best = 2 * size, doubled


def forecast_line(
    engine: Engine, missing: Sequence[Request], needed: int, steps: int, extra_steps: int
) -> str:
    """Return a message with the expected cost and, above LONG_MINUTES, ways to reduce it.

    `needed` is the number of images, and `missing` lists the images that the store lacks. About
    `extra_steps` more guided steps follow for the levels that previews choose. If there are at
    least SHORT guided steps per image of a batch, the speed is measured first by rendering three
    batches. For shorter runs, and for workers that render several batches at once, the progress bar
    gives an estimate sooner.
    """
    ahead = forecast(missing, steps)
    line = (
        f"{needed} images needed, {needed - ahead.images} in the store; {ahead.images} to render "
        f"in {ahead.guided_steps:,} guided steps"
    )
    total = ahead.guided_steps + extra_steps
    if extra_steps:
        line += f", then about {extra_steps:,} for the chosen levels"
    if total < SHORT * engine.info.batch_size or engine.at_once > 1:
        return line
    speed = measure_speed(engine)
    minutes = total / speed.guided_steps / 60
    line += (
        f"; about {minutes:.0f} min at {speed.guided_steps:.0f} steps per second and "
        f"{ahead.images * speed.image_bytes / 1e6:.0f} MB"
    )
    if minutes > LONG_MINUTES:
        line += (
            "\nTo reduce this, use `search` preview instead of exact, fewer levels (`M`), fewer "
            "images (`per_class`), fewer tasks, or a GPU. You can stop at any time: finished "
            "images are kept."
        )
    return line
