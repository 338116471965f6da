"""What every stage shares: its command line, its error line, its closing line and its time."""

import errno
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import click
from tqdm import tqdm

from genie.errors import GenieError
from stages.params import Params, read_params

Item = TypeVar("Item")


def stage(run: Callable[[Params, Path], str], *, trains: bool = False) -> click.Command:
    """A click command from `run(params, root)`, which returns the line that closes the stage.

    One that `trains` runs once on each GPU where there are several and a network is fine-tuned. A
    GenieError, a full device or a file that cannot be read or written ends it with one line on
    stderr and exit code 1.
    """
    name = run.__module__.rpartition(".")[2]
    started_alone = name == "__main__"
    if started_alone:
        name = Path(sys.argv[0]).stem

    @click.command(help=run.__doc__)
    @click.option("--params", "params_file", type=Path, default="params.yaml", show_default=True)
    @click.option("--root", type=Path, default=".", show_default=True, help="where outputs go")
    def command(params_file: Path, root: Path) -> None:
        logging.basicConfig(level=logging.WARNING, format="Warning: %(message)s")
        start = time.perf_counter()
        try:
            params = read_params(params_file)
            if trains and started_alone and params.classifier.head == "finetune":
                _start_on_each_gpu(f"stages.{name}")
            line = run(params, root)
            if not is_first_process():
                return
            _note_time(root, name, time.perf_counter() - start)
        except GenieError as error:
            _stop(str(error))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                place = error.filename or root.resolve()
                _stop(
                    f"no space left on the device while writing {place}; "
                    "free some and run the same command again, finished images are kept"
                )
            if error.filename is None:
                raise
            _stop(f"{error.filename}: {error.strerror}; mend it and run the same command again")
        click.echo(line)

    return command


def bar(items: Iterable[Item], *, total: int, label: str) -> Iterable[Item]:
    """The items, with a progress bar and the time left on stderr."""
    return tqdm(
        items, total=total, desc=label, unit="", dynamic_ncols=True, mininterval=1,
        disable=not is_first_process(),
    )  # fmt: skip


def is_first_process() -> bool:
    """Whether to write and report: of several processes, one per GPU, only the first does."""
    return os.environ.get("RANK", "0") == "0"


def _start_on_each_gpu(module: str) -> None:
    """Where there are several GPUs, run this command on each and end as they do."""
    import torch  # takes seconds, which the other stages can do without

    count = torch.cuda.device_count()
    if count < 2 or "RANK" in os.environ:
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, f"--nproc-per-node={count}", "--module", module, *sys.argv[1:]]
    raise SystemExit(subprocess.run(command).returncode)


def store_folder(root: Path) -> Path:
    """Where rendered images are kept; experiments in temporary folders share it (DVC_ROOT)."""
    return Path(os.environ.get("DVC_ROOT", root)) / ".genie" / "store"


def features_file(root: Path) -> Path:
    """Where vectors of images are kept, shared as the store is."""
    return store_folder(root).parent / "features.sqlite"


def times_folder(root: Path) -> Path:
    """Where each stage notes how long it took: a fact about a run, not an output of it."""
    return root / ".genie" / "times"


def _note_time(root: Path, name: str, seconds: float) -> None:
    folder = times_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"seconds": round(seconds, 2)}) + "\n")


def _stop(message: str) -> None:
    click.echo(f"Error: {message}", err=True)
    raise SystemExit(1)
