"""Rendering on Ray: workers with a model each, on this machine or on a cluster.

The driver groups requests into batches and sends them to the workers. These send PNG images back,
which the driver alone writes to the store, so workers share no file system with it. A worker that
is lost is replaced, and its batch is rendered again.
"""

import json
import logging
import math
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

import genie
from genie.data.images import encode_png
from genie.errors import GenieError, one_line
from genie.generate.batches import batches
from genie.generate.described import Described
from genie.generate.inversion import add_vectors
from genie.generate.model import Generator, load_generator, model_files
from genie.generate.render import default_batch_size, render, require_sources
from genie.generate.request import Request

if TYPE_CHECKING:
    import ray

log = logging.getLogger(__name__)

AT_ONCE = 50_000
"""Requests in one execution of Ray Data; each execution starts its workers anew."""

RETRIES = 5
"""Times a batch is rendered again after its worker was lost, so that one that kills it ends."""

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # sends nothing over the network
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # workers with 0 GPUs see none
    "RAY_worker_niceness": "0",  # rendering is the work, not something beside it
}
_ROWS = pa.schema(
    [
        ("batch", pa.int64()),
        ("place", pa.int64()),
        ("png", pa.binary()),
        ("batch_size", pa.int64()),
        ("in_float32", pa.bool_()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Cluster:
    """Where Ray renders, and with what.

    `address` is that of a cluster, "auto" for the one that this machine belongs to. None starts Ray
    on this machine, until the process ends. `workers` None selects as many as the GPUs allow, or
    one without GPUs. `gpus_per_worker` None selects 1, or 0 if there is no GPU; it may be a
    fraction.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None


@dataclass(frozen=True)
class Workers:
    """The workers of a connected cluster, and the model that they load.

    `cpus` and `gpus` are those of one worker. `generator` is the model as a worker describes it.
    `tokens` are learned tokens with their embeddings (n, d), which workers add to the model.
    """

    count: int
    cpus: float
    gpus: float
    model: "_Model"
    generator: Described
    tokens: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Model:
    """A diffusers folder, and how it is loaded.

    `files` refers to its content by relative path in Ray's object store. It is None where workers
    are on the driver's machine.
    """

    folder: Path
    files: "ray.ObjectRef | None"
    compile: bool | None
    dtype: torch.dtype | None


def connect(
    cluster: Cluster, folder: Path, *, compile: bool | None, dtype: torch.dtype | None
) -> Workers:
    """Connect to Ray and let a worker describe the model in `folder`.

    Raise GenieError if Ray is not installed or not reachable, if the cluster lacks the GPUs for a
    worker, or if the model does not load.
    """
    ray = _ray()
    _start(ray, cluster.address)
    files = None if cluster.address is None else ray.put(_content(folder))
    model = _Model(folder, files, compile, dtype)
    count, cpus, gpus = _shares(ray.cluster_resources(), cluster)
    describe = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_describe)
    described = ray.get(describe.remote(model))
    if isinstance(described, str):
        raise GenieError(described)
    log.info("Ray renders with %d workers (%g CPUs and %g GPUs each)", count, cpus, gpus)
    return Workers(count, cpus, gpus, model, described)


def _ray() -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise GenieError(
            "the engine ray needs Ray, which is not installed; run `pip install -e '.[ray]'`, or "
            "set engine to local"
        ) from None
    return ray


def _start(ray: Any, address: str | None) -> None:
    """Connect to a cluster, or start one here, and keep this process's signal handlers."""
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options["include_dashboard"] = False
    else:  # workers run the driver's version of this package
        options["runtime_env"] = {"py_modules": [str(Path(genie.__file__).parent)]}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise GenieError(
            f"Ray must be reachable at {address or 'this machine'}, but: {one_line(error)}; start "
            "it with `ray start --head`, or correct the address"
        ) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _shares(resources: Mapping[str, float], cluster: Cluster) -> tuple[int, float, float]:
    """Return the number of workers, and the CPUs and GPUs of each."""
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    each = cluster.gpus_per_worker
    if each is None:
        each = 1.0 if gpus else 0.0
    if each > gpus:
        raise GenieError(
            f"gpus_per_worker must be at most the cluster's {gpus:g} GPUs, got {each:g}; decrease "
            "it (0 renders on CPUs) or add GPUs to the cluster"
        )
    count = cluster.workers or (math.floor(gpus / each) if each else 1)
    # a core is left for Ray where there are many
    return count, max(1.0, math.floor((cpus - 1 if cpus > 2 * count else cpus) / count)), each


def _content(folder: Path) -> dict[str, np.ndarray]:
    """Return the bytes of all files that a model is loaded from, by relative path."""
    return {
        path.relative_to(folder).as_posix(): np.frombuffer(path.read_bytes(), np.uint8)
        for path in model_files(folder)
    }


def _describe(model: _Model) -> Described | str:
    """Load the model on a worker and describe it; return the message of an error."""
    try:
        generator = _loaded(model)
    except GenieError as error:
        return str(error)
    return Described.of(generator, batch_size=default_batch_size(generator))


def _loaded(model: _Model) -> Generator:
    """Load the model, from the driver's files where this may be another machine."""
    if model.files is None:
        return load_generator(model.folder, compile=model.compile, dtype=model.dtype)
    import ray

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / model.folder.name
        for name, content in ray.get(model.files).items():
            path = folder / PurePosixPath(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return load_generator(folder, compile=model.compile, dtype=model.dtype)


class Worker:
    """An actor of Ray Data that loads the model once and renders batches."""

    def __init__(
        self,
        model: _Model,
        sources: "Sequence[ray.ObjectRef]",
        tokens: Mapping[str, torch.Tensor],
        options: Mapping[str, Any],
    ) -> None:
        import ray

        self.generator = _loaded(model)
        add_vectors(self.generator, tokens)
        self.sources = ray.get(sources[0])  # arrays in the memory that all workers here share
        self.options = dict(options)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Render the batch of one row (batch, requests) to rows of `_ROWS`."""
        (row,) = batch.to_pylist()
        requests = [Request(**values) for values in json.loads(row["requests"])]
        try:
            rows = self._render(requests)
        except GenieError as error:
            rows = [{"error": str(error)}]
        return pa.Table.from_pylist([{"batch": row["batch"], **one} for one in rows], schema=_ROWS)

    def _render(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        sizes = [self.options["batch_size"]]
        again: list[Request] = []
        names = {request.source_id for request in requests if request.source_id is not None}
        drawn = render(
            requests,
            self.generator,
            sources={name: self.sources[name].tobytes() for name in names},
            halved=sizes.append,
            again=again.extend,
            **self.options,
        )
        images = [(request, encode_png(image)) for request, image in drawn]
        self.options["batch_size"] = sizes[-1]
        place = {request: i for i, request in enumerate(requests)}
        return [
            {
                "place": place[request],
                "png": png,
                "batch_size": sizes[-1],
                "in_float32": request in again,
            }
            for request, png in images
        ]


def render_on_ray(
    requests: Sequence[Request],
    workers: Workers,
    *,
    sources: Mapping[str, bytes],
    steps: int,
    guidance_scale: float,
    batch_size: int,
    halved: Callable[[int], None] = lambda size: None,
    again: Callable[[Sequence[Request]], None] = lambda requests: None,
    take: Callable[[Sequence[Request]], Sequence[Request]] = lambda batch: batch,
) -> Iterator[tuple[Request, bytes]]:
    """Yield every request with its PNG image, in the order in which workers finish.

    The arguments are those of `render`, and so are the images, up to rounding. `take` gets all
    batches of an execution before it starts.
    """
    require_sources(requests, sources)
    whole = batches(requests, steps, batch_size, mixed=workers.generator.fast)
    options = {"steps": steps, "guidance_scale": guidance_scale, "batch_size": batch_size}
    smallest = batch_size
    for part in _executions(whole, take):
        for row in _execute(part, workers, sources, options):
            if row["error"] is not None:
                raise GenieError(row["error"])
            if row["batch_size"] < smallest:
                smallest = row["batch_size"]
                halved(smallest)
            request = part[row["batch"]][row["place"]]
            if row["in_float32"]:
                again([request])
            yield request, row["png"]


def _executions(
    whole: Iterator[list[Request]], take: Callable[[Sequence[Request]], Sequence[Request]]
) -> Iterator[list[Sequence[Request]]]:
    """Yield the batches of each execution; `take` chooses which requests of a batch to render."""
    part: list[Sequence[Request]] = []
    for batch in whole:
        if mine := take(batch):
            part.append(mine)
        if sum(map(len, part)) >= AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def _execute(
    part: Sequence[Sequence[Request]],
    workers: Workers,
    sources: Mapping[str, bytes],
    options: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of all batches, as workers finish them."""
    import ray

    names = {request.source_id for batch in part for request in batch} - {None}
    shared = ray.put({str(n): np.frombuffer(sources[str(n)], np.uint8) for n in names})
    tables = [
        pa.table({"batch": [number], "requests": [json.dumps([asdict(q) for q in batch])]})
        for number, batch in enumerate(part)
    ]
    images = ray.data.from_arrow(tables).map_batches(
        Worker,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(workers.count, len(part))),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
        ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": RETRIES},
        fn_constructor_kwargs={
            "model": workers.model,
            "sources": [shared],
            "tokens": workers.tokens,
            "options": dict(options),
        },
    )
    done: Any = images.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for table in done:
        yield from table.to_pylist()
