"""Signals to processes that run a stage of the test's own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scratch import ENVIRONMENT, ROOT

STAGE = """
import sys, time
from pathlib import Path
from stages.runner import stage
from genie.cli.signals import finishing_whole_items
from genie.core.progress import silent

def batches():
    for batch in range(3):
        for image in range(2):
            print(f"image {batch}.{image}", flush=True)
            if batch == 1 and image == 0:
                sys.stdin.readline()  # until the test has sent its signal
        yield [batch, batch]

def run(params, context):
    if "waiting" in sys.argv[1]:
        print("ready", flush=True)
        while True:
            time.sleep(0.05)
    progress, stored = finishing_whole_items(silent), []
    for batch in progress(batches(), "generate", total=6, weight=len, whole=True):
        stored += batch
        print(f"{len(stored)} images stored", flush=True)
    return "done"

kind = sys.argv.pop(1)
sys.argv.insert(1, f"--root={kind}")
stage(run)()
"""
FIRST = (signal.SIGINT, signal.SIGTERM)


def start(
    kind: str, *, under: tuple[str, ...] = (), script: str = STAGE, **environment: str
) -> subprocess.Popen[str]:
    environment = os.environ | ENVIRONMENT | environment
    return subprocess.Popen(
        [*under, sys.executable, "-c", script, kind],
        cwd=ROOT,
        env={k: v for k, v in environment.items() if v},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_sigint,
    )


def heed_sigint() -> None:
    """Undo what a shell does to the commands in its background, such as pytest itself."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def kind(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    folder = tmp_path / request.param
    folder.mkdir()
    return str(folder)


def read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    while (found := process.stdout.readline().strip()) != line:
        assert found, process.stderr.read() if process.stderr else ""


@pytest.mark.parametrize("kind", ["rendering"], indirect=True)
@pytest.mark.parametrize("number", FIRST)
def test_signal_lets_the_running_batch_end_and_starts_no_other(kind, number):
    process = start(kind)
    read_until(process, "image 1.0")
    process.send_signal(number)
    out, err = process.communicate("go on\n")
    assert out == "image 1.1\n4 images stored\n"
    assert process.returncode == 128 + number
    (line,) = err.splitlines()
    assert number.name in line
    assert "run the same command again" in line


@pytest.mark.parametrize("kind", ["waiting"], indirect=True)
@pytest.mark.parametrize("number", FIRST)
def test_signal_ends_other_work_where_it_is(kind, number):
    process = start(kind)
    read_until(process, "ready")
    process.send_signal(number)
    out, err = process.communicate()
    assert (out, process.returncode) == ("", 128 + number)
    (line,) = err.splitlines()
    assert line.startswith(f"Stopped by {number.name}")


@pytest.mark.parametrize("kind", ["rendering"], indirect=True)
def test_signal_ends_an_item_that_is_not_whole_where_it_is(kind):
    process = start(kind, script=STAGE.replace("whole=True", "whole=False"))
    read_until(process, "image 1.0")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (out, process.returncode) == ("", 128 + signal.SIGINT)
    assert err.startswith("Stopped by SIGINT")


@pytest.mark.parametrize("kind", ["rendering"], indirect=True)
@pytest.mark.parametrize("second", FIRST)
def test_second_signal_ends_the_stage_at_once(kind, second):
    process = start(kind)
    read_until(process, "image 1.0")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "SIGINT" in process.stderr.readline()
    process.send_signal(second)
    process.wait()  # it gets no input, so its batch does not end
    process.communicate()
    assert process.returncode == -second


IN_BACKGROUND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("kind", ["rendering"], indirect=True)
def test_sigint_does_not_reach_a_stage_in_the_background_of_a_shell(kind):
    process = start(kind, under=(sys.executable, "-c", IN_BACKGROUND))
    read_until(process, "image 1.0")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate("go on\n")
    assert (process.returncode, err) == (0, "")
    assert out.endswith("6 images stored\ndone\n")


PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
child.wait()
"""
SHELL = ("sh", "-c", '"$@"; exit $?', "sh")


@pytest.mark.parametrize("kind", ["waiting"], indirect=True)
@pytest.mark.parametrize("shell", [(), SHELL], ids=["direct", "through a shell"])
def test_stage_ends_when_dvc_above_it_is_killed(kind, shell):
    process = start(kind, under=(sys.executable, "-c", PARENT, *shell), DVC_STAGE="generate")
    read_until(process, "ready")
    process.kill()
    _, err = process.communicate()  # waits until the stage has closed its end
    assert err.startswith("Stopped by SIGTERM")


@pytest.mark.parametrize("kind", ["rendering"], indirect=True)
def test_stage_that_dvc_did_not_start_outlives_its_parent(kind):
    process = start(kind, under=(sys.executable, "-c", PARENT), DVC_STAGE="")
    read_until(process, "image 1.0")
    process.kill()
    process.wait()
    out, _ = process.communicate("go on\n")
    assert "6 images stored\ndone\n" in out
