"""The image store: whole files, resumption, locks between two runs, and temporary files."""

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

from genie.core.errors import FailedError
from genie.data.images import encode_png
from genie.render import locks, store
from genie.render.engine import LocalEngine
from genie.render.keys import request_key
from genie.render.locks import ImageLocks, in_use
from genie.render.loop import Cost, Renderer
from genie.render.store import DiskStore, MemoryStore, load_image, save_image, store_path
from tests.genie.render.engines import INFO, REQUEST, SOURCES, STEPS, FakeEngine, image_of, png_of

ROOT = Path(__file__).parents[3]
REQUESTS = [replace(REQUEST, replicate=i) for i in range(20)]


def key_of(request):
    return request_key(request, INFO, steps=STEPS)


def ensure(requests, engine, root) -> Cost:
    """Render what a store on disk lacks, and return the cost."""
    return Renderer(engine, DiskStore(root), SOURCES).ensure(requests, steps=STEPS)


def counts(cost: Cost) -> tuple[int, int, int]:
    """The numbers of images needed, found and rendered."""
    return cost.needed, cost.found, cost.rendered


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
    for offset in range(len(png)):
        changed = bytearray(png)
        changed[offset] ^= 1
        path.unlink()
        path.write_bytes(bytes(changed))
        assert load_image(tmp_path, "abcdef") is None, offset


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
    save_image(tmp_path, key_of(REQUESTS[3]), png_of(REQUESTS[3]))
    save_image(tmp_path, key_of(REQUESTS[4]), b"broken")
    engine = FakeEngine()
    assert counts(ensure(REQUESTS, engine, tmp_path)) == (20, 1, 19)
    assert sorted(q.replicate for q in engine.rendered) == [0, 1, 2, *range(4, 20)]
    for request in REQUESTS:
        assert load_image(tmp_path, key_of(request)) == png_of(request)
    second = FakeEngine()
    assert counts(ensure(REQUESTS, second, tmp_path)) == (20, 20, 0)
    assert second.rendered == []


@pytest.mark.parametrize("make", [DiskStore, lambda _: MemoryStore()], ids=["disk", "memory"])
def test_same_key_is_rendered_once(tmp_path, make):
    engine = FakeEngine()
    twins = [REQUEST, replace(REQUEST, r=0.7000000000000001), REQUEST]
    cost = Renderer(engine, make(tmp_path), SOURCES).ensure(twins, steps=STEPS)
    assert counts(cost) == (1, 0, 1)
    assert engine.rendered == [REQUEST]


def test_killed_run_resumes_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        ensure(REQUESTS, FakeEngine(lives=13), tmp_path)
    assert len(list(tmp_path.glob("*/*.png"))) == 13
    engine = FakeEngine()
    assert counts(ensure(REQUESTS, engine, tmp_path)) == (20, 13, 7)
    assert engine.rendered == REQUESTS[13:]


@pytest.mark.parametrize("at_once", [1, 8])
def test_batch_begins_when_all_images_before_it_are_stored(tmp_path, at_once):
    stored = []

    class Looking(FakeEngine):
        def render(self, batches, sources, steps):
            for batch in batches:
                stored.append(len(list(tmp_path.glob("*/*.png"))))
                yield from super().render([batch], sources, steps)

    ensure(REQUESTS, Looking(at_once=at_once), tmp_path)
    assert stored == [0, 5, 10, 15]


def test_error_of_a_writer_stops_the_run(tmp_path, monkeypatch):
    def full(root: Path, key: str, png: bytes) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "save_image", full)
    engine = FakeEngine()
    with pytest.raises(OSError, match="No space left"):
        ensure(REQUESTS, engine, tmp_path)
    assert len(engine.rendered) == 1


@pytest.mark.parametrize("make", [DiskStore, lambda _: MemoryStore()], ids=["disk", "memory"])
def test_nothing_to_do_renders_nothing(tmp_path, make):
    engine = FakeEngine()
    cost = Renderer(engine, make(tmp_path), SOURCES).ensure([], steps=STEPS)
    assert counts(cost) == (0, 0, 0)
    assert engine.calls == []


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
    with in_other_process(LOCKING, tmp_path, "abc") as other:
        assert other.stdout.readline() == "True\n"
        ensure(REQUESTS[:1], FakeEngine(), tmp_path)
        assert list((tmp_path / "ab").iterdir()) == [alive]


LOCKING = """
import sys
from pathlib import Path
from genie.render.locks import image_locks
with image_locks(Path(sys.argv[1])) as locks:
    print(*map(locks.acquire, sys.argv[2:]), flush=True)
    sys.stdin.read()
"""


@contextmanager
def in_other_process(code, *arguments):
    """A process that runs the code until the block ends; it is killed then."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_image_that_another_run_has_locked_is_not_rendered_here_while_that_run_lives(tmp_path):
    engine = FakeEngine()
    with in_other_process(LOCKING, tmp_path, key_of(REQUESTS[0])) as other:
        assert other.stdout.readline() == "True\n"

        def finish(locks, key):
            """The other run stores its image."""
            save_image(tmp_path, key, png_of(REQUESTS[0]))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ImageLocks, "wait", finish)
            cost = ensure(REQUESTS[:3], engine, tmp_path)
    assert counts(cost) == (3, 1, 2)
    assert engine.rendered == [REQUESTS[1], REQUESTS[2]]


def test_image_that_a_dead_run_had_locked_is_rendered_here(tmp_path, caplog):
    engine, slept = FakeEngine(), []
    with in_other_process(LOCKING, tmp_path, key_of(REQUESTS[0])) as other:
        assert other.stdout.readline() == "True\n"

        def kill(seconds):
            slept.append(seconds)
            other.kill()
            other.wait()

        with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO"):
            patch.setattr(locks.time, "sleep", kill)
            cost = ensure(REQUESTS[:3], engine, tmp_path)
    assert len(slept) == 1
    assert counts(cost) == (3, 0, 3)
    assert engine.rendered[-1] == REQUESTS[0]
    assert "waiting for 1 images that another run is rendering" in caplog.text
    assert caplog.text.count("images needed") == 1  # the work ahead is forecast once


def test_two_runs_on_one_store_render_each_image_once(tmp_path):
    code = """
import sys
from pathlib import Path
from types import SimpleNamespace
from genie.render.store import DiskStore
keys = {number: f"{number:064d}" for number in range(200)}
png = bytes.fromhex(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
rendered = []
with DiskStore(Path(sys.argv[1])).filling(keys, at_once=1) as filling:
    while missing := filling.missing():
        for start in range(0, len(missing), 4):
            claimed = filling.claim(missing[start : start + 4])
            filling.put([SimpleNamespace(request=number, png=png) for number in claimed])
            rendered += claimed
print(*rendered)
"""
    command = [sys.executable, "-c", code, str(tmp_path), png_of(REQUEST).hex()]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    runs = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert [run.stdout.readline() for run in runs] == ["ready\n"] * 2
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    lines = [run.communicate()[0].split() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sorted(int(n) for rendered in lines for n in rendered) == list(range(200))
    assert all(load_image(tmp_path, f"{i:064d}") == png_of(REQUEST) for i in range(200))


def test_file_system_without_locks_is_warned_of_and_everything_is_rendered(
    tmp_path, monkeypatch, caplog
):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    assert ensure(REQUESTS, FakeEngine(), tmp_path).rendered == 20
    assert caplog.text.count("without locks (No locks available)") == 1


READ_ONLY = OSError(errno.EROFS, "Read-only file system")


def test_store_that_cannot_be_written_serves_what_it_has(tmp_path, monkeypatch):
    ensure(REQUESTS, FakeEngine(), tmp_path)
    monkeypatch.setattr(os, "open", raising(READ_ONLY))
    assert counts(ensure(REQUESTS, FakeEngine(), tmp_path)) == (20, 20, 0)


def test_store_that_cannot_be_written_is_named_before_anything_is_rendered(tmp_path, monkeypatch):
    engine = FakeEngine()
    monkeypatch.setattr(os, "open", raising(READ_ONLY))
    with pytest.raises(
        FailedError, match=f"store must be writable.*{tmp_path}.*Read-only"
    ) as error:
        ensure(REQUESTS, engine, tmp_path)
    assert error.value.argument == "store"
    assert engine.rendered == []


def raising(error):
    def call(*_, **__):
        raise error

    return call


def test_store_of_an_older_version_is_used_as_it_is(tmp_path):
    """It has neither locks nor a file with its version, and temporary files of another name."""
    for request in REQUESTS:
        folder = tmp_path / key_of(request)[:2]
        folder.mkdir(exist_ok=True)
        (folder / f"{key_of(request)}.png").write_bytes(png_of(request))
    (folder / ".00000000-abc_1.tmp").write_bytes(b"half")
    assert counts(ensure(REQUESTS, FakeEngine(), tmp_path)) == (20, 20, 0)


def test_store_in_use_can_be_shared_but_not_locked_exclusively(tmp_path):
    alone = pytest.raises(FailedError, match=r"store is in use by a run.*; wait until it ends")
    with DiskStore(tmp_path).in_use(), in_use(tmp_path), alone, in_use(tmp_path, alone=True):
        pass
    with in_use(tmp_path, alone=True):
        pass


def test_memory_and_disk_give_the_same_images_keys_and_costs(sd, source_images, tmp_path):
    requests = [
        replace(REQUEST, source_id=source, r=r)
        for source in list(source_images)[:3]
        for r in (0.4, 0.8)
    ]
    engine = LocalEngine(sd)
    found = []
    for kept in (MemoryStore(), DiskStore(tmp_path)):
        renderer = Renderer(engine, kept, source_images)
        costs = [
            renderer.ensure(requests[:4], steps=STEPS),
            renderer.ensure([*requests, requests[0]], steps=STEPS),
        ]
        keys = [renderer.key(request, STEPS) for request in requests]
        pngs = [kept.png(key) for key in keys]
        assert [kept.image(key).size for key in keys] == [(32, 32)] * len(keys)
        found.append((keys, pngs, [replace(cost, seconds=0) for cost in costs]))
        with kept.in_use():
            pass
    assert found[0] == found[1]
    assert [counts(cost) for cost in found[0][2]] == [(4, 0, 4), (6, 4, 2)]


def test_reading_a_store_imports_no_torch():
    """Commands that list or check images are quick to start."""
    code = "import sys, genie.render.store; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "False\n"
