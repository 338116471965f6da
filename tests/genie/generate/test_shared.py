"""A second store on a storage of fsspec."""

from collections.abc import Iterator, Sequence

import fsspec
import numpy as np
import pytest
from PIL import Image

from genie.data.images import encode_png
from genie.errors import GenieError
from genie.generate.request import Request
from genie.generate.shared import open_shared
from genie.generate.store import Counts, Take, ensure, load_image, store_path

REQUESTS = [Request(None, None, "bag", "a photo of a bag", "", 1.0, i, 0, "") for i in range(6)]


def key_of(request: Request) -> str:
    return f"{request.replicate:02d}" + "0" * 62


def picture(request: Request) -> Image.Image:
    return Image.fromarray(np.full((4, 4, 3), request.replicate, np.uint8))


class Counting:
    """Renders, and counts what it rendered."""

    def __init__(self) -> None:
        self.rendered: list[int] = []

    def __call__(
        self, missing: Sequence[Request], take: Take
    ) -> Iterator[tuple[Request, Image.Image]]:
        for request in take(missing):
            self.rendered.append(request.replicate)
            yield request, picture(request)


@pytest.fixture
def url() -> Iterator[str]:
    yield "memory://shared/store"
    fsspec.filesystem("memory").store.clear()


def test_another_machine_finds_the_images_that_one_rendered(url, tmp_path):
    first, second = Counting(), Counting()
    shared = open_shared(url)
    ensure(REQUESTS[:4], root=tmp_path / "a", key_of=key_of, render=first, shared=shared)
    counts = ensure(REQUESTS, root=tmp_path / "b", key_of=key_of, render=second, shared=shared)
    assert (first.rendered, second.rendered) == ([0, 1, 2, 3], [4, 5])
    assert counts == Counts(needed=6, found=4, rendered=2)
    for request in REQUESTS:
        png = encode_png(picture(request))
        assert load_image(tmp_path / "b", key_of(request)) == png
    assert open_shared(url).keys() == {key_of(request) for request in REQUESTS}


def test_a_damaged_image_of_the_shared_store_is_rendered_again_and_replaced(url, tmp_path):
    shared = open_shared(url)
    shared.write(key_of(REQUESTS[0]), encode_png(picture(REQUESTS[0]))[:-5])
    counting = Counting()
    ensure(REQUESTS[:1], root=tmp_path, key_of=key_of, render=counting, shared=shared)
    assert counting.rendered == [0]
    (found,) = shared.read([key_of(REQUESTS[0])]).values()
    assert found == store_path(tmp_path, key_of(REQUESTS[0])).read_bytes()


def test_an_image_that_went_missing_meanwhile_is_left_out(url):
    assert open_shared(url).read(["ab" + "0" * 62]) == {}


def test_a_shared_store_that_fails_is_named_and_finished_images_are_kept(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    shared = open_shared(f"file://{blocked}/store")
    with pytest.raises(GenieError, match=r"shared store file://.*finished images are kept"):
        ensure(REQUESTS[:1], root=tmp_path / "s", key_of=key_of, render=Counting(), shared=shared)
    assert load_image(tmp_path / "s", key_of(REQUESTS[0])) is not None


def test_an_unknown_kind_of_storage_is_named():
    with pytest.raises(GenieError, match="got nosuch://bucket"):
        open_shared("nosuch://bucket/folder")
