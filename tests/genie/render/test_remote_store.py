"""A remote store on a storage of fsspec."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from genie.core.errors import FailedError, InvalidValueError
from genie.plan.requests import Request
from genie.render.keys import request_key
from genie.render.loop import Cost, Renderer
from genie.render.remote_store import RemoteStore, open_remote
from genie.render.store import DiskStore, load_image, store_path
from tests.genie.render.engines import INFO, STEPS, FakeEngine, png_of

REQUESTS = [Request(None, None, "bag", "a photo of a bag", "", 1.0, i, 0, "") for i in range(6)]


def key_of(request: Request) -> str:
    return request_key(request, INFO, steps=STEPS)


def ensure(
    requests: Sequence[Request], engine: FakeEngine, root: Path, remote: RemoteStore
) -> Cost:
    return Renderer(engine, DiskStore(root, remote)).ensure(requests, steps=STEPS)


def replicates(engine: FakeEngine) -> list[int]:
    return [request.replicate for request in engine.rendered]


@pytest.fixture
def url() -> Iterator[str]:
    yield "memory://shared/store"
    fsspec.filesystem("memory").store.clear()


def test_another_machine_finds_the_images_that_one_rendered(url, tmp_path, caplog):
    first, second = FakeEngine(), FakeEngine()
    remote = open_remote(url)
    ensure(REQUESTS[:4], first, tmp_path / "a", remote)
    with caplog.at_level("INFO"):
        cost = ensure(REQUESTS, second, tmp_path / "b", remote)
    assert (replicates(first), replicates(second)) == ([0, 1, 2, 3], [4, 5])
    assert (cost.needed, cost.found, cost.rendered) == (6, 4, 2)
    assert f"4 images copied from the remote store {url}" in caplog.text
    for request in REQUESTS:
        assert load_image(tmp_path / "b", key_of(request)) == png_of(request)
    assert open_remote(url).keys() == {key_of(request) for request in REQUESTS}


def test_a_damaged_image_of_the_remote_store_is_rendered_again_and_replaced(url, tmp_path):
    remote = open_remote(url)
    remote.write(key_of(REQUESTS[0]), png_of(REQUESTS[0])[:-5])
    engine = FakeEngine()
    ensure(REQUESTS[:1], engine, tmp_path, remote)
    assert replicates(engine) == [0]
    (found,) = remote.read([key_of(REQUESTS[0])]).values()
    assert found == store_path(tmp_path, key_of(REQUESTS[0])).read_bytes()


def test_an_image_that_went_missing_meanwhile_is_left_out(url):
    assert open_remote(url).read(["ab" + "0" * 62]) == {}


def test_a_remote_store_that_fails_is_named_and_finished_images_are_kept(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    remote = open_remote(f"file://{blocked}/store")
    with pytest.raises(
        FailedError, match=r"remote_store must be .* file://.*finished images are kept"
    ) as error:
        ensure(REQUESTS[:1], FakeEngine(), tmp_path / "s", remote)
    assert error.value.argument == "remote_store"
    assert load_image(tmp_path / "s", key_of(REQUESTS[0])) is not None


def test_an_unknown_kind_of_storage_is_named():
    with pytest.raises(InvalidValueError, match="got 'nosuch://bucket/folder'") as error:
        open_remote("nosuch://bucket/folder")
    assert (error.value.argument, error.value.value) == ("remote_store", "nosuch://bucket/folder")


def test_an_image_of_another_seed_is_not_taken_from_the_remote_store(url, tmp_path):
    remote = open_remote(url)
    ensure(REQUESTS[:1], FakeEngine(), tmp_path / "a", remote)
    engine = FakeEngine()
    ensure([replace(REQUESTS[0], seed=1)], engine, tmp_path / "b", remote)
    assert len(engine.rendered) == 1
