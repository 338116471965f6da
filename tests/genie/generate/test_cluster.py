"""Rendering on Ray: the images of the local engine, whatever happens to workers."""

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

from genie.data.images import decode_image
from genie.errors import GenieError
from genie.generate import cluster
from genie.generate.cluster import Cluster, Worker, Workers, connect, render_on_ray
from genie.generate.model import Generator, load_generator, model_files
from genie.generate.render import render
from genie.generate.renderer import Renderer, load_renderer
from genie.generate.request import Request

STEPS = 4
OPTIONS = {"steps": STEPS, "guidance_scale": 3.0, "batch_size": 4}


@pytest.fixture(scope="module")
def workers(tiny_sd_folder: Path) -> Iterator[Workers]:
    """Two workers on this machine, which start with the first test."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    connected = connect(Cluster(workers=2), tiny_sd_folder, compile=None, dtype=None)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield connected
    ray.shutdown()


def requests_of(sources: Sequence[str], count: int) -> list[Request]:
    ratios = (0.5, 0.7, 1.0)
    return [
        Request(sources[i % len(sources)], "bag", "coat", "a photo of a coat", "", r, i, 0, "")
        for i in range(count)
        for r in ratios
    ]


def test_images_are_those_of_the_local_engine_although_a_worker_is_killed(
    workers, sd, source_images
):
    requests = requests_of(list(source_images), 8)
    found: dict[Request, bytes] = {}
    given: list[Request] = []
    for request, png in render_on_ray(
        requests, workers, sources=source_images, **OPTIONS, take=lambda b: given.extend(b) or b
    ):
        if not found:
            kill_a_worker()
        assert request not in found, "rendered twice"
        found[request] = png
    assert sorted(map(str, given)) == sorted(map(str, requests))
    local = dict(render(requests, sd, sources=source_images, **OPTIONS))
    assert found.keys() == local.keys()
    for request, image in local.items():
        far = np.abs(np.asarray(image, int) - np.asarray(decode_image(found[request]), int))
        assert far.max() <= 1


def kill_a_worker() -> None:
    actors = [
        process
        for process in psutil.process_iter(["cmdline"])
        if " ".join(process.info["cmdline"] or []).startswith("ray::MapWorker")
    ]
    assert actors, "no worker is alive"
    actors[0].kill()


def worker_of(workers: Workers, sources: dict[str, bytes]) -> Worker:
    """A worker in this process."""
    arrays = {name: np.frombuffer(png, np.uint8) for name, png in sources.items()}
    return Worker(workers.model, [ray.put(arrays)], workers.tokens, OPTIONS)


def asked(worker: Worker, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """The rows that a worker returns for a batch."""
    row = {"batch": [7], "requests": [json.dumps([asdict(request) for request in requests])]}
    return worker(pa.table(row)).to_pylist()


def test_an_error_of_a_worker_is_an_error_of_the_run(workers, source_images, monkeypatch):
    name, other = list(source_images)[:2]
    requests = requests_of([name], 1)
    rows = asked(worker_of(workers, source_images | {name: source_images[other]}), requests)
    monkeypatch.setattr(cluster, "_execute", lambda *_: rows)
    with pytest.raises(GenieError, match=f"source image {name}.*damaged"):
        list(render_on_ray(requests, workers, sources=source_images, **OPTIONS))


def test_a_source_that_is_missing_is_named_before_work_starts(workers):
    with pytest.raises(GenieError, match="every source image must be in the support set"):
        next(render_on_ray(requests_of(["nowhere"], 1), workers, sources={}, **OPTIONS))


def test_a_request_that_another_run_has_taken_is_not_rendered(workers, source_images, monkeypatch):
    requests = requests_of(list(source_images), 2)
    mine = set(requests[::2])
    parts: list[Any] = []
    monkeypatch.setattr(cluster, "_execute", lambda part, *_: parts.append(part) or [])
    drawn = render_on_ray(
        requests, workers, sources=source_images, **OPTIONS,
        take=lambda batch: [request for request in batch if request in mine],
    )  # fmt: skip
    assert list(drawn) == []
    assert {request for part in parts for batch in part for request in batch} == mine


def test_less_memory_and_float32_are_reported(workers, source_images, monkeypatch):
    requests = requests_of(list(source_images), 1)
    told = {"png": b"", "error": None, "batch": 0}
    rows = [told | {"place": i, "batch_size": 2, "in_float32": i == 1} for i in range(3)]
    monkeypatch.setattr(cluster, "_execute", lambda *_: rows)
    sizes: list[int] = []
    again: list[Request] = []
    drawn = render_on_ray(
        requests, workers, sources=source_images, **OPTIONS,
        halved=sizes.append, again=again.extend,
    )  # fmt: skip
    order = [request for request, _ in drawn]
    assert set(order) == set(requests)
    assert (sizes, again) == ([2], [order[1]])


def test_a_worker_on_another_machine_gets_the_model_from_the_driver(
    workers, tiny_sd_folder, source_images
):
    files = ray.put(cluster._content(tiny_sd_folder))
    elsewhere = Path("/nowhere") / tiny_sd_folder.name
    shipped = replace(workers, model=replace(workers.model, folder=elsewhere, files=files))
    assert cluster._describe(shipped.model) == workers.generator
    requests = requests_of(list(source_images), 1)
    here, there = (asked(worker_of(w, source_images), requests) for w in (workers, shipped))
    assert here == there


def test_only_the_files_that_a_model_is_loaded_from_are_sent(tiny_sd_folder, tmp_path):
    sent = {path.relative_to(tiny_sd_folder).parts[0] for path in model_files(tiny_sd_folder)}
    assert "model_index.json" in sent
    assert "unet" in sent
    assert "safety_checker" not in sent


def test_learned_tokens_reach_the_workers(workers, tiny_sd_folder, source_images):
    width = load_generator(tiny_sd_folder).pipeline.text_encoder.config.hidden_size
    token = {"<token-of-a-test>": torch.linspace(-1, 1, width)[None]}
    learned = worker_of(replace(workers, tokens=token), source_images)
    request = replace(requests_of(list(source_images), 1)[-1], prompt="a <token-of-a-test>")
    (row,) = asked(learned, [request])
    local = with_token(tiny_sd_folder, token)
    ((_, image),) = render([request], local, sources=source_images, **OPTIONS)
    far = np.abs(np.asarray(image, int) - np.asarray(decode_image(row["png"]), int))
    assert far.max() <= 1


def with_token(folder: Path, token: dict[str, torch.Tensor]) -> Generator:
    generator = load_generator(folder)
    ((name, vector),) = token.items()
    generator.pipeline.load_textual_inversion({name: vector}, token=name)
    return generator


def test_a_renderer_on_workers_has_the_keys_of_a_local_one(workers, sd, source_images, tmp_path):
    given = (STEPS, 3.0, 4, source_images, tmp_path)
    there = Renderer(workers.generator, *given, workers=workers)
    here = Renderer(sd, *given)
    for request in requests_of(list(source_images), 2):
        assert there.key(request, STEPS) == here.key(request, STEPS)


def test_the_batch_size_of_workers_is_not_measured_here(workers, tiny_sd_folder, tmp_path):
    with pytest.raises(GenieError, match="probe measures this machine"):
        load_renderer(
            tiny_sd_folder, sources={}, store=tmp_path, batch_size="probe", cluster=Cluster()
        )


def test_a_model_that_does_not_load_is_an_error_before_rendering(workers, tmp_path):
    with pytest.raises(GenieError, match=r"model_index\.json"):
        connect(Cluster(), tmp_path, compile=None, dtype=None)


def test_without_ray_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(GenieError, match="pip install"):
        connect(Cluster(), tmp_path, compile=None, dtype=None)


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
    assert cluster._shares(resources, asked) == expected


def test_more_gpus_than_there_are_is_an_error():
    with pytest.raises(GenieError, match=r"at most the cluster's 1 GPUs, got 2"):
        cluster._shares({"CPU": 4.0, "GPU": 1.0}, Cluster(gpus_per_worker=2))


def test_many_requests_are_executed_in_parts(monkeypatch):
    monkeypatch.setattr(cluster, "AT_ONCE", 5)
    batches = [[i, i] for i in range(6)]
    parts = list(cluster._executions(iter(batches), lambda batch: batch))
    assert [batch for part in parts for batch in part] == batches
    assert [len(part) for part in parts] == [3, 3]
