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
from pathlib import Path

import click
import pandas as pd

from benchmarks.growth import GENERATOR, bundled_requests
from genie.generate.cluster import Cluster
from genie.generate.renderer import load_renderer

OUT = Path("benchmarks/engine.csv")
RUNS = (("local", 2_000, 20), ("ray", 2_000, 20), ("ray", 1_000, 2), ("ray", 10_000, 2))
"""Engine, requests and denoising steps of each row."""


def measure(engine: str, count: int, steps: int, store: Path) -> dict[str, object]:
    """Render `count` requests into an empty store, and return the row."""
    requests, sources = bundled_requests(count)
    times: list[float] = []
    start = time.perf_counter()
    renderer = load_renderer(
        GENERATOR,
        sources=sources,
        store=store,
        cluster=Cluster() if engine == "ray" else None,
        on_image=lambda guided_steps: times.append(time.perf_counter()),
    )
    cost = renderer.ensure(requests, steps=steps)
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
        with tempfile.TemporaryDirectory() as place:
            click.echo(json.dumps(measure(*RUNS[row], Path(place))))
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
