"""Rendering on Ray workers, which each load the model, on this machine or on a cluster.

The driver sends batches to the workers, which return PNG images. Only the driver writes to the
store, so the workers need no access to its file system.
"""

import json
import logging
import math
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file

from genie.core.errors import FailedError, GenieError, InvalidValueError, one_line
from genie.plan.requests import Request
from genie.render.adapters import add_vectors
from genie.render.engine import LocalEngine, Rendered, Sources
from genie.render.model import Generator, load_generator, model_files
from genie.render.model_info import ModelInfo, RenderSettings

if TYPE_CHECKING:
    import ray

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parents[1]

RETRIES = 5
"""Maximum retries of a batch whose worker is lost, in case the batch itself is the cause."""

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # sends nothing over the network
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # workers with 0 GPUs see none
    "RAY_worker_niceness": "0",  # rendering is not a background task
}
_ROWS = pa.schema(
    [
        ("batch", pa.int64()),
        ("position", pa.int64()),
        ("png", pa.binary()),
        ("guided_steps", pa.int64()),
        ("batch_size", pa.int64()),
        ("in_float32", pa.bool_()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster, and the resources of its workers.

    `address` is the address of a cluster, or "auto" for the cluster to which this machine belongs.
    None starts Ray on this machine for the lifetime of the process. By default, `workers` is the
    number of workers for which there are GPUs, or 1 without GPUs. `gpus_per_worker` may be a
    fraction; by default, it is 1, or 0 without GPUs.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None


@dataclass(frozen=True)
class _Model:
    """A diffusers folder, with the settings for loading it.

    `files` refers to the files of the folder, by relative path, in Ray's object store. It is None
    if the workers run on the driver's machine.
    """

    folder: Path
    files: "ray.ObjectRef | None"
    settings: RenderSettings


@dataclass(frozen=True)
class _Workers:
    """The number of workers, and the CPUs and GPUs of each worker."""

    count: int
    cpus: float
    gpus: float


class RayEngine:
    """Renders on the workers of a Ray cluster; this process does not load the model.

    Each call to `render` starts new workers.
    """

    at_once = 50_000

    def __init__(self, cluster: Cluster, folder: Path, settings: RenderSettings) -> None:
        """Connect to Ray, and have a worker describe the model in `folder`.

        Raise FailedError if Ray is not installed or not reachable, InvalidValueError if the cluster
        lacks the GPUs for a worker or if the batch size is to be measured, and the errors of
        `load_generator` if the model does not load.
        """
        if settings.batch_size == "probe":
            raise InvalidValueError(
                "probe measures this machine, but the workers of Ray render",
                argument="batch_size",
                remedy="give a number, or leave it out for the default of their device",
            )
        ray = _ray()
        _start(ray, cluster.address)
        files = None if cluster.address is None else ray.put(_content(folder))
        self._model = _Model(folder, files, settings)
        self._workers = _shares(ray.cluster_resources(), cluster)
        self._tokens: dict[str, torch.Tensor] = {}
        each = {"num_cpus": self._workers.cpus, "num_gpus": self._workers.gpus}
        describe = ray.remote(**each, max_retries=RETRIES)(_describe)
        try:
            self.info: ModelInfo = ray.get(describe.remote(self._model))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        log.info(
            "Ray renders with %d workers (%g CPUs and %g GPUs each)",
            self._workers.count,
            self._workers.cpus,
            self._workers.gpus,
        )

    def generator(self) -> Generator:
        """Load the model in this process, for training tokens."""
        return load_generator(self._model.folder, self._model.settings)

    def add_tokens(self, tokens: Mapping[str, Path]) -> None:
        """Load learned tokens from their files, so that prompts can contain them."""
        for path in tokens.values():
            self._tokens |= load_file(path)

    def render(
        self, batches: Sequence[Sequence[Request]], sources: Sources, steps: int
    ) -> Iterator[list[Rendered]]:
        """Yield the images of each batch, as workers finish them.

        A worker that is lost is replaced, and its batch is rendered again. If a worker reports an
        error, raise FailedError with its message.
        """
        import ray

        filled = [batch for batch in batches if batch]
        if not filled:
            return
        names = {request.source_id for batch in filled for request in batch} - {None}
        shared = ray.put({str(n): np.frombuffer(sources[str(n)], np.uint8) for n in names})
        tables = [
            pa.table({"batch": [number], "requests": [json.dumps([asdict(q) for q in batch])]})
            for number, batch in enumerate(filled)
        ]
        images = ray.data.from_arrow(tables).map_batches(
            Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(self._workers.count, len(filled))),
            num_cpus=self._workers.cpus,
            num_gpus=self._workers.gpus,
            ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": RETRIES},
            fn_constructor_kwargs={
                "model": self._model,
                "sources": [shared],
                "tokens": self._tokens,
                "steps": steps,
            },
        )
        done: Any = images.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for table in done:
            yield [_result(row, filled) for row in table.to_pylist()]


def _result(row: Mapping[str, Any], batches: Sequence[Sequence[Request]]) -> Rendered:
    """Return the image in a row of `_ROWS`; raise FailedError if the row contains an error."""
    if row["error"] is not None:
        raise FailedError(row["error"])
    return Rendered(
        batches[row["batch"]][row["position"]],
        row["png"],
        row["guided_steps"],
        row["batch_size"],
        row["in_float32"],
    )


def _ray() -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise FailedError(
            "ray needs Ray, which is not installed",
            argument="engine",
            remedy="run `pip install -e '.[ray]'`, or set `engine` to local",
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
        options["runtime_env"] = {"py_modules": [str(_PACKAGE)]}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FailedError(
            f"Ray must be reachable at {address or 'this machine'}, but: {one_line(error)}",
            remedy="start it with `ray start --head`, or correct the address",
        ) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _shares(resources: Mapping[str, float], cluster: Cluster) -> _Workers:
    """Divide the CPUs and GPUs of the cluster among workers."""
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    each = cluster.gpus_per_worker
    if each is None:
        each = 1.0 if gpus else 0.0
    if each > gpus:
        raise InvalidValueError(
            f"must be at most the cluster's {gpus:g} GPUs",
            argument="gpus_per_worker",
            value=each,
            remedy="decrease it (0 renders on CPUs) or add GPUs to the cluster",
        )
    count = cluster.workers or (math.floor(gpus / each) if each else 1)
    # leave a core for Ray if there are many
    left = cpus - 1 if cpus > 2 * count else cpus
    return _Workers(count, max(1.0, math.floor(left / count)), each)


def _content(folder: Path) -> dict[str, np.ndarray]:
    """Return the bytes of all model files, by relative path."""
    return {
        path.relative_to(folder).as_posix(): np.frombuffer(path.read_bytes(), np.uint8)
        for path in model_files(folder)
    }


def _describe(model: _Model) -> ModelInfo:
    """Load the model on a worker and describe it."""
    return _loaded(model).info


def _loaded(model: _Model) -> Generator:
    """Load the model; on a cluster, load it from the driver's copy of its files."""
    if model.files is None:
        return load_generator(model.folder, model.settings)
    import ray

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / model.folder.name
        for name, content in ray.get(model.files).items():
            path = folder / PurePosixPath(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return load_generator(folder, model.settings)


class Worker:
    """A Ray Data actor that loads the model once and renders batches."""

    def __init__(
        self,
        model: _Model,
        sources: "Sequence[ray.ObjectRef]",
        tokens: Mapping[str, torch.Tensor],
        steps: int,
    ) -> None:
        import ray

        generator = _loaded(model)
        add_vectors(generator, tokens)
        self.engine = LocalEngine(generator)
        self.sources = ray.get(sources[0])  # arrays in memory that the workers of a machine share
        self.steps = steps

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Render the batch in a row (batch, requests), and return rows of `_ROWS`."""
        (row,) = batch.to_pylist()
        requests = [Request(**values) for values in json.loads(row["requests"])]
        try:
            rows = self._render(requests)
        except GenieError as error:
            rows = [{"error": str(error)}]
        number = row["batch"]
        return pa.Table.from_pylist([{"batch": number, **image} for image in rows], schema=_ROWS)

    def _render(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        names = {request.source_id for request in requests if request.source_id is not None}
        sources = {name: self.sources[name].tobytes() for name in names}
        position = {request: i for i, request in enumerate(requests)}
        return [
            {
                "position": position[result.request],
                "png": result.png,
                "guided_steps": result.guided_steps,
                "batch_size": result.batch_size,
                "in_float32": result.in_float32,
            }
            for results in self.engine.render([requests], sources, self.steps)
            for result in results
        ]
