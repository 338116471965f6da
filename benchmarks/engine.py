"""The cost of Ray compared with the local engine, and the driver's memory.

    python -m benchmarks.engine

The requests are those of GeNIe-Ada with the default parameters. Each row is measured in its own
process, with one worker that uses all cores of the machine. `start` is the time until the first
image, which includes starting Ray and loading the model. `images_per_second` is measured after the
first image. Rows are added to benchmarks/engine.csv; use `taskset -c 1` to measure one core.
"""

import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import pandas as pd

from benchmarks.bundled import GENERATOR, Row, bundled_requests, in_own_process
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


def measure(name: str, count: int, steps: int, store: Path) -> Row:
    """Render `count` requests into an empty store, and return the row."""
    requests, sources = bundled_requests(count)
    times: list[float] = []

    def clock(
        items: Iterable[Item], label: str, *, weight: Callable[[Item], int] = one, **options: Any
    ) -> Iterator[Item]:
        for item in items:
            times.extend([time.perf_counter()] * weight(item))
            yield item

    start = time.perf_counter()
    engine: Engine = LocalEngine(load_generator(GENERATOR))
    if name == "ray":
        engine = RayEngine(Cluster(), GENERATOR, RenderSettings())
    cost = Renderer(engine, DiskStore(store), sources, clock).ensure(requests, steps=steps)
    first = sum(at <= times[0] + 0.05 for at in times)  # the images of the first batch
    return {
        "engine": name,
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
        with tempfile.TemporaryDirectory() as place:
            click.echo(json.dumps(measure(*RUNS[row], Path(place))))
        return
    rows = [in_own_process("engine", "--row", str(number)) for number in range(len(RUNS))]
    earlier = [pd.read_csv(OUT)] if OUT.is_file() else []
    table = pd.concat([*earlier, pd.DataFrame(rows)], ignore_index=True)
    table.to_csv(OUT, index=False, lineterminator="\n")
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
