"""Rendering on Ray: the images of the local engine, whatever happens to workers."""

import copy
import inspect
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import ray
import torch
from safetensors.torch import save_file

from genie.core.errors import FailedError, InvalidValueError, MissingFileError
from genie.data.images import decode_image
from genie.plan.requests import Request
from genie.render import ray_engine
from genie.render.adapters import add_tokens
from genie.render.batches import batches
from genie.render.engine import LocalEngine, Rendered
from genie.render.loop import Renderer
from genie.render.model import load_generator, model_files
from genie.render.model_info import RenderSettings
from genie.render.ray_engine import Cluster, RayEngine, Worker
from genie.render.store import MemoryStore

STEPS = 4
SETTINGS = RenderSettings(guidance_scale=3.0, batch_size=4)


@pytest.fixture(scope="module")
def engine(tiny_sd_folder: Path) -> Iterator[RayEngine]:
    """An engine of two workers on this machine, which start with the first call."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    connected = RayEngine(Cluster(workers=2), tiny_sd_folder, SETTINGS)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield connected
    ray.shutdown()


@pytest.fixture(scope="module")
def local(tiny_sd_folder: Path) -> LocalEngine:
    """The same model in this process."""
    return LocalEngine(load_generator(tiny_sd_folder, SETTINGS, device="cpu"))


def requests_of(sources: Sequence[str], count: int) -> list[Request]:
    ratios = (0.5, 0.7, 1.0)
    return [
        Request(sources[i % len(sources)], "bag", "coat", "a photo of a coat", "", r, i, 0, "")
        for i in range(count)
        for r in ratios
    ]


def batched(requests: Sequence[Request]) -> list[list[Request]]:
    return list(batches(requests, STEPS, 4, mixed=True))


def distance(first: bytes, second: bytes) -> int:
    """The largest difference of two PNG images, of 255."""
    a, b = (np.asarray(decode_image(png), int) for png in (first, second))
    return int(np.abs(a - b).max())


def test_images_are_those_of_the_local_engine_although_a_worker_is_killed(
    engine, local, source_images
):
    requests = requests_of(list(source_images), 8)
    found: dict[Request, Rendered] = {}
    for results in engine.render(batched(requests), source_images, STEPS):
        if not found:
            kill_a_worker()
        for result in results:
            assert result.request not in found, "rendered twice"
            found[result.request] = result
    assert sorted(map(str, found)) == sorted(map(str, requests))
    here = [r for part in local.render(batched(requests), source_images, STEPS) for r in part]
    for result in here:
        there = found[result.request]
        assert distance(result.png, there.png) <= 1
        assert replace(there, png=b"") == replace(result, png=b"")


def kill_a_worker() -> None:
    actors = [
        process
        for process in psutil.process_iter(["cmdline"])
        if " ".join(process.info["cmdline"] or []).startswith("ray::MapWorker")
    ]
    assert actors, "no worker is alive"
    actors[0].kill()


def test_both_engines_have_the_same_public_methods(engine, local):
    def public(one: object) -> dict[str, Any]:
        names = {name for name in dir(one) if not name.startswith("_")}
        methods = {name for name in names if callable(getattr(one, name))}
        signatures = {name: str(inspect.signature(getattr(one, name))) for name in methods}
        return dict.fromkeys(names) | signatures

    assert public(engine) == public(local)
    assert {*public(engine)} == {"at_once", "info", "render", "generator", "add_tokens"}


def test_both_engines_describe_the_model_by_the_same_value(engine, local):
    assert engine.info == local.info


def test_both_engines_give_a_store_the_same_images_under_the_same_keys(
    engine, local, source_images, monkeypatch
):
    """The worker runs in this process here, so that the test is quick."""
    requests = requests_of(list(source_images), 2)

    def render(self, batches, sources, steps):
        for batch in batches:
            rows = rows_of(worker_of(engine, source_images), batch)
            yield [ray_engine._result(row | {"batch": 0}, [batch]) for row in rows]

    monkeypatch.setattr(RayEngine, "render", render)
    there, here = (Renderer(e, MemoryStore(), source_images) for e in (engine, local))
    costs = [renderer.ensure(requests, steps=STEPS) for renderer in (there, here)]
    assert replace(costs[0], seconds=0) == replace(costs[1], seconds=0)
    for request in requests:
        key = here.key(request, STEPS)
        assert there.key(request, STEPS) == key
        assert distance(there.store.png(key), here.store.png(key)) <= 1


def worker_of(engine: RayEngine, sources: dict[str, bytes]) -> Worker:
    """A worker in this process."""
    arrays = {name: np.frombuffer(png, np.uint8) for name, png in sources.items()}
    return Worker(engine._model, [ray.put(arrays)], engine._tokens, STEPS)


def rows_of(worker: Worker, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """The rows that a worker returns for a batch."""
    row = {"batch": [7], "requests": [json.dumps([asdict(request) for request in requests])]}
    return worker(pa.table(row)).to_pylist()


def test_an_error_of_a_worker_is_an_error_of_the_run(engine, source_images):
    name, other = list(source_images)[:2]
    requests = requests_of([name], 1)
    damaged = source_images | {name: source_images[other]}
    (row,) = rows_of(worker_of(engine, damaged), requests)
    assert row["batch"] == 7
    with pytest.raises(FailedError, match=f"source image {name}.*damaged"):
        ray_engine._result(row, [requests])


def test_a_source_that_is_missing_is_named_before_work_starts(engine, monkeypatch):
    monkeypatch.setattr(RayEngine, "render", lambda *_: pytest.fail("rendered"))
    renderer = Renderer(engine, MemoryStore(), {})
    with pytest.raises(InvalidValueError, match="must be in the support set, but nowhere"):
        renderer.ensure(requests_of(["nowhere"], 1), steps=STEPS)


def test_batches_that_other_runs_have_locked_start_no_worker(engine, monkeypatch):
    monkeypatch.setattr(ray.data, "from_arrow", lambda _: pytest.fail("started"))
    assert list(engine.render([], {}, STEPS)) == []
    assert list(engine.render([[], []], {}, STEPS)) == []


def test_less_memory_and_float32_are_reported(source_images):
    requests = requests_of(list(source_images), 1)
    row = {"png": b"", "error": None, "batch": 0, "guided_steps": 2, "batch_size": 2}
    rows = [row | {"position": i, "in_float32": i == 1} for i in range(3)]
    results = [ray_engine._result(row, [requests]) for row in rows]
    assert [result.request for result in results] == requests
    assert [result.batch_size for result in results] == [2, 2, 2]
    assert [result.in_float32 for result in results] == [False, True, False]


def test_a_worker_returns_the_facts_of_its_engine(engine, source_images):
    worker = worker_of(engine, source_images)
    worker.engine._batch_size = 1  # as after two halvings
    requests = requests_of(list(source_images), 1)
    rows = rows_of(worker, requests)
    assert [row["position"] for row in rows] == [0, 1, 2]
    assert [row["guided_steps"] for row in rows] == [2, 3, 4]
    assert [row["batch_size"] for row in rows] == [1, 1, 1]
    assert not any(row["in_float32"] or row["error"] for row in rows)


def test_a_worker_on_another_machine_gets_the_model_from_the_driver(
    engine, tiny_sd_folder, source_images
):
    files = ray.put(ray_engine._content(tiny_sd_folder))
    elsewhere = Path("/nowhere") / tiny_sd_folder.name
    shipped = copy.copy(engine)
    shipped._model = replace(engine._model, folder=elsewhere, files=files)
    assert ray_engine._describe(shipped._model) == engine.info
    requests = requests_of(list(source_images), 1)
    here, there = (rows_of(worker_of(e, source_images), requests) for e in (engine, shipped))
    assert here == there


def test_only_the_files_that_a_model_is_loaded_from_are_sent(tiny_sd_folder, tmp_path):
    sent = {path.relative_to(tiny_sd_folder).parts[0] for path in model_files(tiny_sd_folder)}
    assert "model_index.json" in sent
    assert "unet" in sent
    assert "safety_checker" not in sent


def test_learned_tokens_reach_the_workers(engine, tiny_sd_folder, source_images, tmp_path):
    generator = engine.generator()
    assert generator.info == engine.info
    width = generator.pipeline.text_encoder.config.hidden_size
    name, path = "<token-of-a-test>", tmp_path / "token.safetensors"
    save_file({name: torch.linspace(-1, 1, width)[None]}, path)
    learned = copy.copy(engine)
    learned._tokens = {}
    learned.add_tokens({name: path})
    request = replace(requests_of(list(source_images), 1)[-1], prompt=f"a {name}")
    (row,) = rows_of(worker_of(learned, source_images), [request])
    add_tokens(generator, {name: path})
    ((here,),) = LocalEngine(generator).render([[request]], source_images, STEPS)
    assert distance(here.png, row["png"]) <= 1
    (without,) = rows_of(worker_of(engine, source_images), [request])
    assert without["png"] != row["png"]


def test_the_batch_size_of_workers_is_not_measured_here(tiny_sd_folder):
    with pytest.raises(InvalidValueError, match="probe measures this machine") as error:
        RayEngine(Cluster(), tiny_sd_folder, RenderSettings(batch_size="probe"))
    assert error.value.argument == "batch_size"


def test_a_model_that_does_not_load_is_an_error_before_rendering(engine, tmp_path):
    """It is the error of the worker, not one of Ray."""
    with pytest.raises(MissingFileError, match=r"model_index\.json") as error:
        RayEngine(Cluster(), tmp_path, SETTINGS)
    assert error.value.argument == "model"
    assert "\n" not in str(error.value)
    assert "genie fetch" in error.value.remedy


def test_without_ray_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FailedError, match="pip install"):
        RayEngine(Cluster(), tmp_path, SETTINGS)


@pytest.mark.parametrize(
    ("resources", "asked", "expected"),
    [
        ({"CPU": 2.0}, Cluster(), (1, 2.0, 0.0)),
        ({"CPU": 2.0}, Cluster(workers=2), (2, 1.0, 0.0)),
        ({"CPU": 16.0, "GPU": 1.0}, Cluster(), (1, 15.0, 1.0)),
        ({"CPU": 96.0, "GPU": 8.0}, Cluster(), (8, 11.0, 1.0)),
        ({"CPU": 16.0, "GPU": 2.0}, Cluster(gpus_per_worker=0.5), (4, 3.0, 0.5)),
        ({"CPU": 16.0, "GPU": 4.0}, Cluster(workers=3), (3, 5.0, 1.0)),
        ({"CPU": 2.0, "GPU": 4.0}, Cluster(), (4, 1.0, 1.0)),
    ],
)
def test_workers_share_the_cluster(resources, asked, expected):
    shares = ray_engine._shares(resources, asked)
    assert (shares.count, shares.cpus, shares.gpus) == expected


def test_more_gpus_than_there_are_is_an_error():
    with pytest.raises(InvalidValueError, match=r"at most the cluster's 1 GPUs, got 2") as error:
        ray_engine._shares({"CPU": 4.0, "GPU": 1.0}, Cluster(gpus_per_worker=2))
    assert error.value.argument == "gpus_per_worker"
