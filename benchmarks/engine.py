"""What Ray costs against the local engine, and the driver's memory.

    python -m benchmarks.engine

Requests are GeNIe-Ada's on the embedded default. Each row is measured in a process of its own, with
one worker that has this machine's cores. `start` is the time until the first image, which includes
the start of Ray and the loading of the model. `images_per_second` counts from there. Rows are
added to benchmarks/engine.csv; `taskset -c 1` gives those of one core.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
import pandas as pd

from benchmarks.growth import GENERATOR, bundled_requests
from genie.core.progress import Item, one
from genie.render.engine import Engine, LocalEngine
from genie.render.loop import Renderer
from genie.render.model import load_generator
from genie.render.model_info import RenderSettings
from genie.render.ray_engine import Cluster, RayEngine
from genie.render.store import DiskStore

OUT = Path("benchmarks/engine.csv")
RUNS = (("local", 2_000, 20), ("ray", 2_000, 20), ("ray", 1_000, 2), ("ray", 10_000, 2))
"""Engine, requests and denoising steps of each row."""


class Clock:
    """A progress that records when each image was finished."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(
        self,
        items: Iterable[Item],
        label: str,
        *,
        total: int,
        unit: str = "",
        weight: Callable[[Item], int] = one,
        whole: bool = False,
    ) -> Iterator[Item]:
        """Iterate over finished batches."""
        for item in items:
            self.times += [time.perf_counter()] * weight(item)
            yield item


def engine_named(name: str) -> Engine:
    """Return the local engine, or one with a worker of Ray on this machine."""
    if name == "ray":
        return RayEngine(Cluster(), GENERATOR, RenderSettings())
    return LocalEngine(load_generator(GENERATOR))


def measure(engine: str, count: int, steps: int, store: Path) -> dict[str, object]:
    """Render `count` requests into an empty store, and return the row."""
    requests, sources = bundled_requests(count)
    clock = Clock()
    start = time.perf_counter()
    renderer = Renderer(engine_named(engine), DiskStore(store), sources, clock)
    cost = renderer.ensure(requests, steps=steps)
    times = clock.times
    first = sum(at <= times[0] + 0.05 for at in times)  # the images of the first batch
    return {
        "engine": engine,
        "cores": len(os.sched_getaffinity(0)),
        "requests": count,
        "steps": steps,
        "images": cost.rendered,
        "start": round(times[0] - start, 1),
        "images_per_second": round((count - first) / (times[-1] - times[0]), 2),
        "driver_mebibytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


@click.command(help=__doc__)
@click.option("--row", type=int, hidden=True, help="Measure this one of RUNS here.")
def main(row: int | None) -> None:
    if row is not None:
        engine, count, steps = RUNS[row]
        with tempfile.TemporaryDirectory() as place:
            click.echo(json.dumps(measure(engine, count, steps, Path(place))))
        return
    rows = []
    for number in range(len(RUNS)):
        command = [sys.executable, "-m", "benchmarks.engine", "--row", str(number)]
        output = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True)
        rows.append(json.loads(output.splitlines()[-1]))
    earlier = [pd.read_csv(OUT)] if OUT.is_file() else []
    table = pd.concat([*earlier, pd.DataFrame(rows)], ignore_index=True)
    table.to_csv(OUT, index=False, lineterminator="\n")
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
