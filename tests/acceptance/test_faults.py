"""Kills at random moments, runs that share a store, and full disks, with the real dvc.

Full disks are small file systems in memory; mounting them needs root.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from tests.acceptance.watched import rendered, saved, watching
from tests.scratch import ENVIRONMENT, call, commit, contents, make_scratch, ran, read_json

KILLS = 25
BATCH = 4  # generator.batch_size of the scratch repository
OUTPUTS = ("data/augmented", "data/prepared", "data/sources", "models", "metrics", "plots")


@pytest.fixture(scope="module")
def made(photos: Path, tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch repository after an undisturbed run."""
    place = tmp_path_factory.mktemp("faults") / "made"
    make_scratch(place, photos, tiny_sd_folder, {})
    begun = time.monotonic()
    call(place, "dvc", "repro")
    commit(place)
    (place / ".genie/seconds").write_text(str(time.monotonic() - begun))
    return place


def fresh(made: Path, place: Path) -> Path:
    """A clone of the repository in which nothing has run."""
    call(made.parent, "git", "clone", "--quiet", str(made), str(place))
    (place / "dvc.lock").unlink()
    shutil.rmtree(place / "metrics")
    return place


def ready(made: Path, place: Path) -> Path:
    """A copy of the repository with all results and an empty store."""
    shutil.copytree(made, place, symlinks=True)
    shutil.rmtree(place / ".genie")
    return place


def anew(stage: str) -> tuple[str, ...]:
    """The command that runs one stage again although nothing has changed."""
    return ("dvc", "repro", "--force", "--single-item", "--no-run-cache", stage)


def results(place: Path) -> dict[str, dict[str, str]]:
    return {name: contents(place / name) for name in OUTPUTS}


def start(place: Path, *command: str, **environment: str) -> subprocess.Popen[str]:
    """A command in a session of its own, whose processes can be killed together."""
    return subprocess.Popen(
        command,
        cwd=place,
        env=os.environ | ENVIRONMENT | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_two_runs_in_two_clones_on_one_store_render_nothing_twice(made, tmp_path):
    clones = [ready(made, tmp_path / name) for name in ("one", "other")]
    environments = [watching(tmp_path / f"watched-{clone.name}") for clone in clones]
    shared = {"DVC_ROOT": str(tmp_path / "shared")}
    runs = [
        start(clone, *anew("generate"), **environment, **shared)
        for clone, environment in zip(clones, environments, strict=True)
    ]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    begun = [saved(tmp_path / f"watched-{clone.name}") for clone in clones]
    needed = read_json(made / "metrics/cost.json")["needed"]
    print("rendered:", [len(one) for one in begun], "of", needed)
    assert set(Counter([*begun[0], *begun[1]]).values()) == {1}
    assert sum(map(len, begun)) == needed
    assert all(begun)  # they ran side by side
    for clone in clones:
        assert contents(clone / "data/augmented") == contents(made / "data/augmented")


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Make a folder a file system of its own; what it held is moved there."""
    kept = folder.with_name(f"{folder.name}-kept")
    if folder.exists():
        folder.rename(kept)
    folder.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True
    )
    try:
        if kept.exists():
            shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def enlarge(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], check=True)


def success(place: Path, *command: str, **environment: str) -> str:
    done = start(place, *command, **environment)
    output, _ = done.communicate()
    assert done.returncode == 0, output
    return output


def failure(place: Path, *command: str, **environment: str) -> str:
    done = start(place, *command, **environment)
    output, _ = done.communicate()
    assert done.returncode not in (0, None)
    return output


def test_full_disk_during_generation_is_named_and_the_run_goes_on_with_room(made, tmp_path):
    place = ready(made, tmp_path / "full")
    with small_disk(place / ".genie", 200):
        output = failure(place, *anew("generate"))
        assert "Error: no space left on the device while writing" in output
        assert "Traceback" not in output
        kept = len(list((place / ".genie/store").glob("*/*.png")))
        enlarge(place / ".genie")
        call(place, *anew("generate"))
        assert read_json(place / ".genie/runs/rendering.json")["found"] == kept > 0
        assert "up to date" in call(place, "dvc", "repro")
        assert results(place) == results(made)


def test_full_disk_during_training_is_named_and_the_run_goes_on_with_room(made, tmp_path):
    place = ready(made, tmp_path / "full")
    shutil.rmtree(place / "models/augmented")
    with small_disk(place / "models", 10_000):
        room = os.statvfs(place / "models")
        filler = place / "models/filler"
        filler.write_bytes(bytes((room.f_bavail - 1) * room.f_bsize))
        output = failure(place, *anew("retrain"))
        assert "Error: no space left on the device while writing" in output
        assert "Traceback" not in output
        filler.unlink()
        call(place, *anew("retrain"))
        assert "up to date" in call(place, "dvc", "repro")
        assert results(place) == results(made)


def test_full_remote_fails_the_push_and_the_next_push_completes_it(made, tmp_path):
    place, remote = ready(made, tmp_path / "pusher"), tmp_path / "remote"
    call(place, "dvc", "remote", "add", "--default", "team", str(remote))
    with small_disk(remote, 100):
        assert "No space left on device" in failure(place, "dvc", "push")
        enlarge(remote)
        call(place, "dvc", "push")
        assert "in sync" in call(place, "dvc", "status", "--cloud")


def test_read_only_store_serves_what_it_has_and_is_named_where_images_are_missing(made, tmp_path):
    place = ready(made, tmp_path / "read-only")
    shared = tmp_path / "shared"
    shutil.copytree(made / ".genie/store", shared / ".genie/store")
    with small_disk(shared, 100_000):
        success(place, *anew("generate"), DVC_ROOT=str(shared))  # embeddings are stored too
        subprocess.run(["mount", "-o", "remount,ro", str(shared)], check=True)
        success(place, *anew("generate"), DVC_ROOT=str(shared))
        assert read_json(place / ".genie/runs/rendering.json")["rendered"] == 0
        params = yaml.safe_load((place / "params.yaml").read_text())
        params["seed"] = 1
        (place / "params.yaml").write_text(yaml.safe_dump(params))
        output = failure(place, *anew("generate"), DVC_ROOT=str(shared))
        assert "store must be writable" in output
        assert f"{shared}/.genie/store" in output
        assert "Traceback" not in output


def test_photo_that_vanished_reruns_preparation(made, tmp_path):
    place = ready(made, tmp_path / "vanished")
    photo = min((place / "photos/train").rglob("*.png"))
    photo.unlink()
    assert ran(call(place, "dvc", "repro", "prepare")) == ["prepare"]
    shutil.rmtree(place / "photos")
    output = failure(place, "dvc", "repro", "prepare")
    assert "photos" in output
    assert "Traceback" not in output


def test_stage_ends_after_its_batch_when_dvc_is_killed(made, tmp_path):
    place = ready(made, tmp_path / "orphan")
    run = start(place, *anew("generate"), **watching(tmp_path / "watched"))
    while not list((place / ".genie/store").glob("*/*.png")):
        time.sleep(0.1)
    run.kill()
    output, _ = run.communicate()  # ends when the stage has closed its end
    assert "Stopping after the current batch (SIGTERM)" in output
    kept = len(list((place / ".genie/store").glob("*/*.png")))
    assert 0 < kept < read_json(made / "metrics/cost.json")["needed"]
    assert len(rendered(tmp_path / "watched")) == kept


def begun_on_ray(made: Path, place: Path, watched: Path) -> subprocess.Popen[str]:
    """A run of generate on two workers of Ray whose first images are stored."""
    ready(made, place)
    ray = {"GENIE_ENGINE": "ray", "GENIE_RAY_WORKERS": "2"}
    run = start(place, *anew("generate"), **watching(watched), **ray)
    while not list((place / ".genie/store").glob("*/*.png")):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.1)
    return run


def processes(run: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """The processes below a run whose command line contains a name."""
    below = psutil.Process(run.pid).children(recursive=True)
    return [one for one in below if name in " ".join(one.cmdline())]


def test_ray_makes_the_set_of_the_local_engine_although_a_worker_is_killed(made, tmp_path):
    run = begun_on_ray(made, tmp_path / "ray", tmp_path / "watched")
    processes(run, "ray::MapWorker")[0].kill()
    output, _ = run.communicate()
    assert run.returncode == 0, output
    assert "Ray renders with 2 workers" in output
    place, stored = tmp_path / "ray", saved(tmp_path / "watched")
    assert len(stored) == len(set(stored)) == read_json(made / "metrics/cost.json")["needed"]
    assert contents(place / "data/augmented") == contents(made / "data/augmented")


def test_signal_to_a_run_on_ray_keeps_what_is_finished(made, tmp_path):
    run = begun_on_ray(made, tmp_path / "ray", tmp_path / "watched")
    (stage,) = processes(run, "stages.generate")[-1:]
    stage.send_signal(signal.SIGTERM)
    output, _ = run.communicate()
    assert run.returncode != 0
    assert "finished images are kept" in output
    assert "Traceback" not in output
    kept = len(list((tmp_path / "ray/.genie/store").glob("*/*.png")))
    assert 0 < kept == len(saved(tmp_path / "watched"))
    call(tmp_path / "ray", *anew("generate"))
    assert read_json(tmp_path / "ray/.genie/runs/rendering.json")["found"] == kept
    assert contents(tmp_path / "ray/data/augmented") == contents(made / "data/augmented")


def test_chain_killed_at_random_moments_ends_in_the_same_bytes(made, tmp_path):
    """A chain that ends before the kill is compared, and another one is begun."""
    draw = random.Random(0)
    whole = float((made / ".genie/seconds").read_text())
    needed = read_json(made / "metrics/cost.json")["needed"]
    kills, chains = 0, 0
    while kills < KILLS:
        chains += 1
        place = fresh(made, tmp_path / f"chain{chains}")
        watched = tmp_path / f"watched{chains}"
        environment = watching(watched)
        in_generate = 0
        while True:
            before = rendered(watched)
            run = start(place, "dvc", "repro", "--no-run-cache", **environment)
            until = draw.uniform(0.02, 0.35) * whole if kills < KILLS else None
            try:
                output, _ = run.communicate(timeout=until)
                assert run.returncode == 0, output
                break
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                run.communicate()
                kills += 1
                lost = len(rendered(watched)) > len(before)
                in_generate += lost
                print(f"kill {kills} after {until:.0f} s{' while rendering' * lost}", flush=True)
        assert results(place) == results(made)
        assert (place / "dvc.lock").read_bytes() == (made / "dvc.lock").read_bytes()
        begun = rendered(watched)
        print(
            f"chain {chains}: same bytes, {len(begun)} images begun of {needed}, "
            f"{in_generate} kills while rendering",
            flush=True,
        )
        assert len(set(begun)) == needed
        assert len(begun) - needed <= in_generate * BATCH
        assert not list((place / ".genie").rglob("*.tmp"))
