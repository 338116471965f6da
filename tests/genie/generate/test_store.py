import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from genie.data.images import encode_png
from genie.generate import store
from genie.generate.request import Request
from genie.generate.store import Counts, ensure, load_image, save_image, store_path

REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "", 0.7, 0, 0, "")
REQUESTS = [replace(REQUEST, replicate=i) for i in range(20)]


def key_of(request):
    return f"{request.replicate:064d}"


def image_of(request):
    return Image.new("RGB", (8, 8), (request.replicate, 0, 0))


class Renderer:
    """Renders in reverse order; dies after `lives` images."""

    def __init__(self, lives=None):
        self.lives = lives
        self.rendered = []

    def __call__(self, requests):
        for request in reversed(requests):
            if self.lives == len(self.rendered):
                raise KeyboardInterrupt
            self.rendered.append(request)
            yield request, image_of(request)


def test_image_is_saved_under_the_first_letters_of_its_key(tmp_path):
    png = encode_png(image_of(REQUEST))
    path = save_image(tmp_path, "abcdef", png)
    assert path == store_path(tmp_path, "abcdef") == tmp_path / "ab" / "abcdef.png"
    assert load_image(tmp_path, "abcdef") == png
    assert [p.name for p in path.parent.iterdir()] == ["abcdef.png"]


def test_missing_image_is_none(tmp_path):
    assert load_image(tmp_path, "abcdef") is None


@pytest.mark.parametrize("length", [0, 5, 8, 30, -13, -1])
def test_truncated_image_counts_as_missing(tmp_path, length):
    png = encode_png(Image.effect_noise((16, 16), 50))
    save_image(tmp_path, "abcdef", png[:length])
    assert load_image(tmp_path, "abcdef") is None


def test_corrupt_image_counts_as_missing(tmp_path):
    png = encode_png(Image.effect_noise((16, 16), 50))
    for place in range(len(png)):
        changed = bytearray(png)
        changed[place] ^= 1
        save_image(tmp_path, "abcdef", bytes(changed))
        assert load_image(tmp_path, "abcdef") is None, place


def test_full_disk_is_an_os_error_and_leaves_nothing(tmp_path, monkeypatch):
    class Full:
        def __init__(self, handle, mode):
            self.handle = handle

        def __enter__(self):
            return self

        def __exit__(self, *_):
            os.close(self.handle)

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fdopen", Full)
    with pytest.raises(OSError, match="No space left"):
        save_image(tmp_path, "abcdef", b"png")
    assert list((tmp_path / "ab").iterdir()) == []


def test_only_what_is_missing_is_rendered(tmp_path):
    save_image(tmp_path, key_of(REQUESTS[3]), encode_png(image_of(REQUESTS[3])))
    save_image(tmp_path, key_of(REQUESTS[4]), b"broken")
    renderer = Renderer()
    counts = ensure(REQUESTS, root=tmp_path, key_of=key_of, render=renderer)
    assert counts == Counts(needed=20, found=1, rendered=19)
    assert len(renderer.rendered) == 19
    for request in REQUESTS:
        assert load_image(tmp_path, key_of(request)) == encode_png(image_of(request))
    again = Renderer()
    counts = ensure(REQUESTS, root=tmp_path, key_of=key_of, render=again)
    assert counts == Counts(needed=20, found=20, rendered=0)
    assert again.rendered == []


def test_same_key_is_rendered_once(tmp_path):
    renderer = Renderer()
    twins = [REQUEST, replace(REQUEST, r=0.7000000000000001), REQUEST]
    counts = ensure(twins, root=tmp_path, key_of=key_of, render=renderer)
    assert counts == Counts(needed=1, found=0, rendered=1)
    assert renderer.rendered == [REQUEST]


def test_killed_run_resumes_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        ensure(REQUESTS, root=tmp_path, key_of=key_of, render=Renderer(lives=15))
    kept = len(list(tmp_path.glob("*/*.png")))
    assert kept >= 7
    renderer = Renderer()
    counts = ensure(REQUESTS, root=tmp_path, key_of=key_of, render=renderer)
    assert counts == Counts(needed=20, found=kept, rendered=20 - kept)


def test_error_of_a_writer_stops_the_run(tmp_path, monkeypatch):
    def full(root: Path, key: str, png: bytes) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "save_image", full)
    with pytest.raises(OSError, match="No space left"):
        ensure(REQUESTS, root=tmp_path, key_of=key_of, render=Renderer())


def test_nothing_to_do_renders_nothing(tmp_path):
    assert ensure([], root=tmp_path, key_of=key_of, render=Renderer()) == Counts(
        needed=0, found=0, rendered=0
    )
