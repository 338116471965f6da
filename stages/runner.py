"""The command line of the stages: options, progress, signals, error messages and run notes."""

import gc
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import click

from genie.cli.curves import Curves, recording_speed
from genie.cli.log import show_log
from genie.cli.messages import in_keys, line_in_keys
from genie.cli.places import features_file, note_run
from genie.cli.repository import kept_values, show_to_git
from genie.cli.run_notes import outputs, result_of
from genie.cli.signals import ends_on_signals, finishing_whole_items
from genie.core.errors import (
    GenieError,
    InvalidValueError,
    disk_is_full,
    one_line,
    out_of_memory,
)
from genie.core.progress import Monitor
from genie.progress import bar, is_first_process
from genie.settings import Params, read_params

_VERSION_FILE = "genie-version.txt"
"""File in a project made by `genie new` that pins the version of genie-pipeline."""


@dataclass(frozen=True)
class Context:
    """The context of a stage: its working folder, its parameter file, and the monitor of its loops.

    `writes` is True if this process writes outputs; with one process per GPU, only the first one
    does.
    """

    root: Path
    params_file: Path
    monitor: Monitor
    writes: bool = True


def stage(run: Callable[[Params, Context], str], *, trains: bool = False) -> click.Command:
    """Turn `run(params, context)` into a command that prints the line returned by `run`.

    If `trains` is True and the command fine-tunes a network, it runs on every GPU of the machine. A
    GenieError, a full disk, exhausted memory, or a file that cannot be read or written ends the
    command with one line on stderr and exit code 1. Signals end it as described in
    `genie.cli.signals`.
    """
    gc.freeze()  # what has been imported by now stays; see `stages`
    gc.enable()
    name = run.__module__.rpartition(".")[2]
    started_alone = name == "__main__"
    if started_alone:
        name = Path(sys.argv[0]).stem

    @click.command(help=run.__doc__)
    @click.option("--params", "params_file", type=Path, default="params.yaml", show_default=True)
    @click.option("--root", type=Path, default=".", show_default=True, help="Folder for outputs.")
    def command(params_file: Path, root: Path) -> None:
        show_log()
        start = time.perf_counter()
        with ends_on_signals(), _errors_on_one_line(root, params_file):
            show_to_git(params_file)
            _require_version(Path(_VERSION_FILE))
            params = read_params(params_file)
            _unlink_outputs(root, name)
            if trains and started_alone and params.classifier.head == "finetune":
                _start_on_each_gpu(f"stages.{name}")
            curves = Curves(root, name)
            progress = finishing_whole_items(recording_speed(bar, curves))
            monitor = Monitor(progress, curves.record)
            line = run(params, Context(root, params_file, monitor, is_first_process()))
            curves.end()
            if is_first_process():
                seconds = round(time.perf_counter() - start, 2)
                result = result_of(root, name, pipeline=Path("dvc.yaml"), params=params_file)
                note_run(root, name, seconds=seconds, result=result)
                click.echo(line_in_keys(line))

    return command


def _unlink_outputs(root: Path, name: str) -> None:
    """Remove outputs that are links, as DVC does before it runs a stage.

    A stage that is started without DVC would write through these links into DVC's cache.
    """
    for out in outputs(Path("dvc.yaml"), name):
        place = root / out
        for file in (place, *place.rglob("*")):
            linked = file.is_symlink() or (file.is_file() and file.stat().st_nlink > 1)
            if linked and not file.is_dir():
                file.unlink()


def _require_version(file: Path) -> None:
    """Raise InvalidValueError if the file pins a version other than the installed one."""
    named = re.search(r"==([^\s;,]+)", file.read_text()) if file.is_file() else None
    installed = version("genie-pipeline")
    if named and named[1] != installed:
        raise InvalidValueError(
            f"{file} pins genie-pipeline {named[1]}, but {installed} is installed",
            remedy="run `pip install -r requirements.txt`, or pin the installed version, which "
            "reruns all stages",
        )


@contextmanager
def _errors_on_one_line(root: Path, params_file: Path) -> Iterator[None]:
    """Report errors that a user can fix as one line on stderr, with exit code 1.

    The line also says whether params.yaml keeps the values of an experiment.
    """
    try:
        yield
    except GenieError as error:
        _stop(in_keys(error) + kept_values(params_file))
    except Exception as error:
        line = _remedy(error, root)
        if line is None:
            raise
        _stop(line + kept_values(params_file))


def _remedy(error: Exception, root: Path) -> str | None:
    """Return a message for an error from the disk, memory or a file, or None for a bug."""
    file = getattr(error, "filename", None)
    if disk_is_full(error):
        return (
            f"no space left on the device while writing {file or root.resolve()}; "
            "free some space and run the same command again; finished images are kept"
        )
    if out_of_memory(error):
        return (
            f"the memory of this machine is exhausted ({one_line(error)}); decrease "
            "generator.batch_size, classifier.batch_size or data.size, or close other programs, "
            "and run the same command again; finished images are kept"
        )
    if isinstance(error, sqlite3.DatabaseError):
        return (
            f"the cache {features_file(root)} cannot be used: {one_line(error)}; delete it and run "
            "the same command again, embeddings are then recomputed"
        )
    if isinstance(error, OSError) and file is not None:
        return f"{file}: {error.strerror}; fix this and run the same command again"
    return None


def _start_on_each_gpu(module: str) -> None:
    """Run this command on each GPU and exit with its status, if there are several GPUs."""
    import torch  # slow to import, and only needed for fine-tuning

    count = torch.cuda.device_count()
    if count < 2 or "RANK" in os.environ:
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, f"--nproc-per-node={count}", "--module", module, *sys.argv[1:]]
    raise SystemExit(subprocess.run(command).returncode)


def _stop(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    raise SystemExit(1)
