"""How rendering a million images grows from 1 to 256 GPUs: simulated driver and workers of Ray.

    python -m benchmarks.scaling            # simulate, with the recorded costs
    python -m benchmarks.scaling --measure  # measure this machine's costs first

Events are finished batches, stored batches and pre-empted GPUs. Measured costs are in
benchmarks/scaling-measured.csv, assumptions are `ASSUMED` below. No GPU, no cluster and no S3 was
used. Out: benchmarks/scaling.csv, benchmarks/scaling.png.
"""

import hashlib
import heapq
import math
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_images

from genie.data.images import encode_png
from genie.figures.canvas import save_figure
from genie.render.locks import image_locks
from genie.render.model_info import RenderSettings
from genie.render.ray_engine import Cluster, RayEngine
from genie.render.store import save_image

FOLDER = Path("benchmarks")
MEASURED = FOLDER / "scaling-measured.csv"
IMAGES = 1_000_000
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WRITERS, SHARED_WRITERS = 4, 32  # threads of the driver, as in genie/render/store.py
ASSUMED: Mapping[str, tuple[float, str]] = {
    "image_seconds": (1.0, "Stable Diffusion 1.5, 512x512, 50 guided steps, float16, large GPU"),
    "batch": (32, "images per batch, the default of a GPU at 512x512"),
    "start_seconds": (30, "start an actor: imports, and the model from memory to the GPU"),
    "model_bytes": (2e9, "Stable Diffusion 1.5 in float16, sent to each node once"),
    "gpus_per_node": (8, "GPUs of a node, which share one copy of the model"),
    "bandwidth": (1.25e9, "bytes per second into and out of the driver: 10 Gbit/s"),
    "store_bytes": (20e9, "finished images that the cluster may hold before its GPUs wait"),
    "preemptions": (0.05, "per GPU and hour, spot instances"),
    "replaced_seconds": (300, "from a pre-emption until a new GPU can start"),
    "put_seconds": (0.05, "one PUT to S3"),
    "gpu_price": (1.5, "US dollars per GPU hour, spot"),
    "driver_price": (0.5, "US dollars per hour of the driver's machine"),
    "put_price": (5e-6, "US dollars per PUT to S3"),
}
"""Value and meaning of what was not measured. Prices and rates vary: change them here."""


@dataclass(frozen=True)
class Costs:
    """What the simulation counts with: seconds, bytes, US dollars; measured, then assumed.

    `png_bytes` to `locks_seconds` are measured. `write_seconds` is per image in one of `WRITERS`
    threads that share the disk, `hand_seconds` per image in the driver's main thread, and
    `locks_seconds` per execution.
    """

    png_bytes: float
    write_seconds: float
    hand_seconds: float
    locks_seconds: float
    image_seconds: float
    batch: float
    start_seconds: float
    model_bytes: float
    gpus_per_node: float
    bandwidth: float
    store_bytes: float
    preemptions: float
    replaced_seconds: float
    put_seconds: float
    gpu_price: float
    driver_price: float
    put_price: float
    at_once: int = RayEngine.at_once


@dataclass
class Outcome:
    """Totals of one run, or of one execution: seconds, images, bytes."""

    seconds: float = 0.0
    stored: int = 0
    rendered: int = 0
    gpu_busy: float = 0.0
    driver_busy: float = 0.0
    peak_bytes: float = 0.0


def driver_seconds(costs: Costs, *, shared: bool) -> float:
    """Seconds per image of the driver: its main thread, its disk or its writers' waiting."""
    waiting = (costs.write_seconds + costs.put_seconds) / SHARED_WRITERS if shared else 0.0
    return max(costs.hand_seconds, costs.write_seconds / WRITERS, waiting)


def simulate(images: int, gpus: int, costs: Costs, *, shared: bool = False) -> Outcome:
    """Run all executions one after another; each starts its workers anew and drains."""
    draw = np.random.default_rng(gpus)
    nodes = math.ceil(gpus / costs.gpus_per_node)
    total = Outcome(seconds=nodes * costs.model_bytes / costs.bandwidth)
    for start in range(0, images, costs.at_once):
        count = min(costs.at_once, images - start)
        one = execute(count, gpus, costs, draw, each=driver_seconds(costs, shared=shared))
        total.seconds += costs.locks_seconds * count / costs.at_once + one.seconds
        total.stored += one.stored
        total.rendered += one.rendered
        total.gpu_busy += one.gpu_busy
        total.driver_busy += one.driver_busy
        total.peak_bytes = max(total.peak_bytes, one.peak_bytes)
    return total


def execute(
    images: int, gpus: int, costs: Costs, draw: np.random.Generator, *, each: float
) -> Outcome:
    """One execution of Ray Data: batches from a queue to GPUs, over one link to one driver.

    A pre-empted GPU loses its batch, which goes back to the front of the queue, and returns later.
    A GPU waits with its finished batch while the cluster's memory for images is full.
    """
    size = int(costs.batch)
    queue = deque([size] * (images // size) + [images % size] * (images % size > 0))
    events: list[tuple[float, int, str, int]] = []
    waiting: deque[int] = deque()  # finished batches that find the memory full
    idle = 0
    held, link, driver = 0.0, 0.0, 0.0
    number = 0  # of the event, so that equal times keep their order
    out = Outcome()

    def at(moment: float, what: str, batch: int) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (moment, number, what, batch))

    def begin(now: float) -> None:
        """Give a free GPU the next batch, and decide whether it is pre-empted meanwhile."""
        nonlocal idle
        if not queue:
            idle += 1
            return
        batch = queue.popleft()
        length = batch * costs.image_seconds
        left = draw.exponential(3600 / costs.preemptions) if costs.preemptions else math.inf
        at(now + min(left, length), "lost" if left < length else "finished", batch)
        out.gpu_busy += min(left, length)

    def send(now: float, batch: int) -> None:
        """Send a finished batch to the driver, which stores its images in turn."""
        nonlocal held, link, driver
        held += batch * costs.png_bytes
        out.peak_bytes = max(out.peak_bytes, held)
        link = max(link, now) + batch * costs.png_bytes / costs.bandwidth
        driver = max(driver, link) + batch * each
        out.driver_busy += batch * each
        at(driver, "stored", batch)

    for _ in range(min(gpus, len(queue))):
        at(costs.start_seconds, "free", 0)
    while events:
        now, _, what, batch = heapq.heappop(events)
        if what == "lost":
            queue.appendleft(batch)
            if idle:  # another GPU takes the batch at once
                idle -= 1
                begin(now)
            at(now + costs.replaced_seconds + costs.start_seconds, "free", 0)
        elif what == "finished":
            out.rendered += batch
            if held and held + batch * costs.png_bytes > costs.store_bytes:
                waiting.append(batch)
            else:
                send(now, batch)
                begin(now)
        elif what == "stored":
            out.stored += batch
            out.seconds = now
            held -= batch * costs.png_bytes
            while waiting and held + waiting[0] * costs.png_bytes <= costs.store_bytes:
                send(now, waiting.popleft())
                begin(now)
        else:
            begin(now)
    return out


def row_of(
    scenario: str, gpus: int, costs: Costs, *, drivers: int, shared: bool
) -> dict[str, object]:
    """One row of the table: `drivers` equal parts, each with its own GPUs and driver."""
    part = simulate(IMAGES // drivers, gpus // drivers, costs, shared=shared)
    hours = part.seconds / 3600
    dollars = hours * (gpus * costs.gpu_price + drivers * costs.driver_price)
    return {
        "scenario": scenario,
        "gpus": gpus,
        "drivers": drivers,
        "hours": round(hours, 2),
        "images_per_second": round(drivers * part.stored / part.seconds, 2),
        "gpus_busy": round(part.gpu_busy / part.seconds / (gpus / drivers), 3),
        "driver_busy": round(part.driver_busy / part.seconds, 3),
        "network_megabytes_per_second": round(
            part.rendered * costs.png_bytes / part.seconds / 1e6, 1
        ),
        "object_store_peak_megabytes": round(part.peak_bytes / 1e6),
        "images_stored": drivers * part.stored,
        "dollars": round(dollars + shared * IMAGES * costs.put_price),
    }


def rows(costs: Costs) -> Iterator[dict[str, object]]:
    """All rows: without a shared store, with one, and with four drivers on one."""
    for scenario, drivers, shared in (
        ("one driver", 1, False),
        ("one driver, shared store", 1, True),
        ("four drivers, shared store", 4, True),
    ):
        for gpus in GPUS:
            if gpus >= drivers:
                yield row_of(scenario, gpus, costs, drivers=drivers, shared=shared)


def photographs() -> list[bytes]:
    """PNG images, 512x512, of the two photographs that come with scikit-learn."""
    found = []
    for pixels in load_sample_images().images:
        side = min(pixels.shape[:2])
        found.append(encode_png(Image.fromarray(pixels[:side, :side]).resize((512, 512))))
    return found


def write_rate(pngs: list[bytes], root: Path, count: int) -> float:
    """Seconds per image in one of `WRITERS` threads that save `count` images durably."""
    start = time.perf_counter()
    with ThreadPoolExecutor(WRITERS) as writers:
        for done in writers.map(
            lambda i: save_image(root, f"{i:064x}"[::-1], pngs[i % len(pngs)]), range(count)
        ):
            assert done.is_file()
    return (time.perf_counter() - start) / count * WRITERS


def lock_time(root: Path, count: int) -> float:
    """Seconds to lock `count` images, and to unlock them one by one."""
    start = time.perf_counter()
    with image_locks(root, wide=True) as locks:
        keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)]
        assert all([locks.acquire(key) for key in keys])
        for key in keys:
            locks.release(key)
    return time.perf_counter() - start


def hand_rate(pngs: list[bytes], count: int, batch: int) -> float:
    """Seconds per image for a worker of Ray Data to hand `count` PNG images to the driver.

    Rows are taken as the driver takes them, and the worker does nothing else.
    """
    import pyarrow as pa
    import ray

    RayEngine(Cluster(), Path("zoo/generator"), RenderSettings(compile=False))  # starts Ray

    def make(table: pa.Table) -> pa.Table:
        return pa.table({"png": [pngs[i % len(pngs)] for i in range(batch)]})

    blocks = [pa.table({"batch": [i]}) for i in range(count // batch)]
    data = ray.data.from_arrow(blocks).map_batches(make, batch_size=1, batch_format="pyarrow")
    seen, start = 0, 0.0
    tables: Any = data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for table in tables:
        start = start or time.perf_counter()  # the first batch waits for the workers' start
        seen += len(table.to_pylist())
    return (time.perf_counter() - start) / (seen - batch)


def measure() -> pd.DataFrame:
    """Measure this machine's costs: a row of name, value and source each."""
    pngs = photographs()
    batch, count = int(ASSUMED["batch"][0]), RayEngine.at_once
    with tempfile.TemporaryDirectory(dir=".") as place:
        root = Path(place)
        table = [
            ("png_bytes", np.mean([len(png) for png in pngs]), "two photographs of scikit-learn"),
            ("write_seconds", write_rate(pngs, root, 1_000), "save_image, in one of 4 threads"),
            ("locks_seconds", lock_time(root, count), f"take and release {count} keys"),
            ("hand_seconds", hand_rate(pngs, 2_000, batch), "Ray Data, on one machine"),
        ]
    return pd.DataFrame(table, columns=["name", "value", "source"])


def read_costs(file: Path = MEASURED) -> Costs:
    """The recorded measurements and the assumptions."""
    measured = pd.read_csv(file).set_index("name")["value"].to_dict()
    assumed: dict[str, Any] = {name: value for name, (value, _) in ASSUMED.items()}
    return Costs(**measured, **assumed)


def draw_figure(table: pd.DataFrame, path: Path) -> None:
    """Images per second and cost by number of GPUs, one curve per scenario."""
    figure = Figure(figsize=(9, 3.6), dpi=110)
    left, right = figure.subplots(1, 2)
    for scenario, part in table.groupby("scenario", sort=False):
        left.plot(part["gpus"], part["images_per_second"], marker="o", label=scenario)
        right.plot(part["gpus"], part["dollars"], marker="o", label=scenario)
    per_gpu = 1 / ASSUMED["image_seconds"][0]
    left.plot(GPUS, [gpus * per_gpu for gpus in GPUS], "k:", label="GPUs alone")
    left.set(xscale="log", yscale="log", ylabel="images per second")
    right.set(xscale="log", ylabel="US dollars per million images", ylim=(0, None))
    for axis in (left, right):
        axis.set_xlabel("GPUs")
        axis.set_xticks(GPUS, [str(gpus) for gpus in GPUS])
        axis.minorticks_off()
    left.legend(fontsize=8)
    figure.suptitle("Simulated, from measured and assumed costs", fontsize=10)
    save_figure(figure, path)


@click.command(help=__doc__)
@click.option("--measure", "renew", is_flag=True, help="Measure this machine's costs first.")
def main(renew: bool) -> None:
    if renew:
        measure().to_csv(MEASURED, index=False, lineterminator="\n", float_format="%.6g")
    costs = read_costs()
    table = pd.DataFrame(rows(costs))
    table.to_csv(FOLDER / "scaling.csv", index=False, lineterminator="\n")
    draw_figure(table, FOLDER / "scaling.png")
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
