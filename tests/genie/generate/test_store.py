import errno
import fcntl
import os
import stat
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from genie.data.images import encode_png
from genie.errors import GenieError
from genie.generate import claims as claims_module
from genie.generate import store
from genie.generate.claims import Claims, in_use
from genie.generate.request import Request
from genie.generate.store import Counts, ensure, load_image, save_image, store_path

ROOT = Path(__file__).parents[3]
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

    def __call__(self, requests, take):
        for request in take(requests[::-1]):
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
    path = save_image(tmp_path, "abcdef", encode_png(Image.effect_noise((16, 16), 50)))
    png = path.read_bytes()
    for place in range(len(png)):
        changed = bytearray(png)
        changed[place] ^= 1
        path.unlink()
        path.write_bytes(bytes(changed))
        assert load_image(tmp_path, "abcdef") is None, place


def test_full_disk_is_an_os_error_and_leaves_nothing(tmp_path, monkeypatch):
    class Full:
        def __init__(self, handle, mode):
            self.handle = handle

        def __enter__(self):
            return self

        def __exit__(self, *_):
            os.close(self.handle)

        def flush(self):
            raise AssertionError("nothing was written")

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fdopen", Full)
    with pytest.raises(OSError, match=r"No space left .*ab/abcdef.png"):
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
    assert kept == 15
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


def test_image_is_flushed_to_the_disk_before_it_gets_its_name_and_its_folder_after(
    tmp_path, monkeypatch
):
    steps = []
    flush, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append(kind_of(file)), flush(file))[1])
    monkeypatch.setattr(Path, "replace", lambda *a: (steps.append("rename"), rename(*a))[1])
    save_image(tmp_path, "abcdef", b"png")
    assert steps == ["file", "rename", "folder"]


def kind_of(file: int) -> str:
    return "folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file"


def test_temporary_files_of_dead_runs_are_swept_and_those_of_living_ones_stay(tmp_path):
    (tmp_path / "ab").mkdir()
    dead, old, alive = (tmp_path / f"ab/.{name}-x1_y.tmp" for name in ("abdead", "ab0ld", "abc"))
    for file in (dead, old, alive):
        file.write_bytes(b"half")
    with in_other_process(claiming, tmp_path, "abc") as other:
        other.stdout.readline()
        ensure(REQUESTS[:1], root=tmp_path, key_of=key_of, render=Renderer())
        assert list((tmp_path / "ab").iterdir()) == [alive]


claiming = """
import sys
from pathlib import Path
from genie.generate.claims import claims
with claims(Path(sys.argv[1])) as held:
    print(*map(held.take, sys.argv[2:]), flush=True)
    sys.stdin.read()
"""


@contextmanager
def in_other_process(code, *arguments):
    """Output of a process that runs the code until the block ends; it is killed then."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_image_that_another_run_claims_is_not_rendered_here_while_that_run_lives(tmp_path):
    renderer = Renderer()
    with in_other_process(claiming, tmp_path, key_of(REQUESTS[0])) as other:
        assert other.stdout.readline() == "True\n"

        def finish(held, key):
            """The other run stores its image."""
            save_image(tmp_path, key, encode_png(image_of(REQUESTS[0])))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Claims, "wait", finish)
            counts = ensure(REQUESTS[:3], root=tmp_path, key_of=key_of, render=renderer)
    assert counts == Counts(needed=3, found=1, rendered=2)
    assert renderer.rendered == [REQUESTS[2], REQUESTS[1]]


def test_image_that_a_dead_run_claimed_is_rendered_here(tmp_path):
    renderer, slept = Renderer(), []
    with in_other_process(claiming, tmp_path, key_of(REQUESTS[0])) as other:
        assert other.stdout.readline() == "True\n"

        def kill(seconds):
            slept.append(seconds)
            other.kill()
            other.wait()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claims_module.time, "sleep", kill)
            counts = ensure(REQUESTS[:3], root=tmp_path, key_of=key_of, render=renderer)
    assert len(slept) == 1
    assert counts == Counts(needed=3, found=0, rendered=3)
    assert renderer.rendered[-1] == REQUESTS[0]


def test_two_runs_on_one_store_render_each_image_once(tmp_path):
    code = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.genie.generate.test_store import REQUEST, image_of, key_of
from genie.generate.store import ensure
requests = [replace(REQUEST, replicate=i) for i in range(200)]
def render(missing, take):
    for start in range(0, 200, 4):
        for request in take(missing[start : start + 4]):
            print(request.replicate)
            yield request, image_of(request)
sys.stdin.readline()
print(ensure(requests, root=Path(sys.argv[1]), key_of=key_of, render=render).needed)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    runs = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    lines = [run.communicate()[0].split() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sorted(int(n) for found in lines for n in found[:-1]) == list(range(200))
    assert all(load_image(tmp_path, f"{i:064d}") for i in range(200))


def test_file_system_without_locks_is_warned_of_and_everything_is_rendered(
    tmp_path, monkeypatch, caplog
):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    counts = ensure(REQUESTS, root=tmp_path, key_of=key_of, render=Renderer())
    assert counts.rendered == 20
    assert caplog.text.count("without locks (No locks available)") == 1


READ_ONLY = OSError(errno.EROFS, "Read-only file system")


def test_store_that_cannot_be_written_serves_what_it_has(tmp_path, monkeypatch):
    ensure(REQUESTS, root=tmp_path, key_of=key_of, render=Renderer())
    monkeypatch.setattr(os, "open", raising(READ_ONLY))
    counts = ensure(REQUESTS, root=tmp_path, key_of=key_of, render=Renderer())
    assert counts == Counts(needed=20, found=20, rendered=0)


def test_store_that_cannot_be_written_is_named_before_anything_is_rendered(tmp_path, monkeypatch):
    renderer = Renderer()
    monkeypatch.setattr(os, "open", raising(READ_ONLY))
    with pytest.raises(GenieError, match=f"the store {tmp_path} must be writable.*Read-only"):
        ensure(REQUESTS, root=tmp_path, key_of=key_of, render=renderer)
    assert renderer.rendered == []


def raising(error):
    def call(*_, **__):
        raise error

    return call


def test_store_of_an_older_version_is_used_as_it_is(tmp_path):
    """It has neither claims nor a mark of its version, and temporary files of another name."""
    for request in REQUESTS:
        folder = tmp_path / key_of(request)[:2]
        folder.mkdir(exist_ok=True)
        (folder / f"{key_of(request)}.png").write_bytes(encode_png(image_of(request)))
    (folder / ".00000000-abc_1.tmp").write_bytes(b"half")
    counts = ensure(REQUESTS, root=tmp_path, key_of=key_of, render=Renderer())
    assert counts == Counts(needed=20, found=20, rendered=0)


def test_store_in_use_can_be_shared_but_not_be_had_alone(tmp_path):
    alone = pytest.raises(GenieError, match="a run is using the store")
    with in_use(tmp_path), in_use(tmp_path), alone, in_use(tmp_path, alone=True):
        pass
    with in_use(tmp_path, alone=True):
        pass
