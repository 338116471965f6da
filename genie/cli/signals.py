"""Graceful shutdown of a stage on SIGINT, on SIGTERM, and when dvc dies.

While images are rendered, the first signal ends the stage after the current batch, whose images are
stored. Otherwise it ends the stage immediately. A second signal always ends it immediately.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import psutil

from genie.core.progress import Progress

Item = TypeVar("Item")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish")
_LOOK = 1.0  # seconds between checks that dvc is alive
_REMEDY = "finished images are kept; run the same command again to resume"


class Stopped(BaseException):
    """An exception for the first signal, raised in the main thread."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass
class _Work:
    """Whether images are being rendered, and the signal that arrived in the meantime."""

    rendering: bool = False
    asked: int | None = None


_work = _Work()


@contextlib.contextmanager
def ends_on_signals() -> Iterator[None]:
    """End the process with one line and exit code 128 + N if signal N arrives in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signal handlers can only be set in the main thread
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # which a shell sets for background commands
            signal.signal(number, _first)
    done = threading.Event()
    _watch_dvc(done)
    try:
        yield
    except Stopped as stopped:
        if _work.asked is None:
            _say(f"Stopped by {signal.Signals(stopped.number).name}; {_REMEDY}")
        raise SystemExit(128 + stopped.number) from None
    finally:
        done.set()
        _work.asked = None
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def finishing_whole_items(progress: Progress) -> Progress:
    """Return a progress bar that, if `whole`, defers signals until the current item is finished."""

    def shown(items: Iterable[Item], label: str, **options: Any) -> Iterable[Item]:
        bar = progress(items, label, **options)
        return _finishing(bar) if options.get("whole") else bar

    return shown


def _finishing(items: Iterable[Item]) -> Iterator[Item]:
    """Iterate over items; raise Stopped after the item during which a signal arrived."""
    _work.rendering = True
    try:
        for item in items:
            yield item
            if _work.asked is not None:
                break
    finally:
        _work.rendering = False
    if _work.asked is not None:
        raise Stopped(_work.asked)


def _first(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)  # a second signal ends the process immediately
    if not _work.rendering:
        raise Stopped(number)
    _work.asked = number
    _say(f"Stopping after the current batch ({signal.Signals(number).name}); {_REMEDY}")


def _say(line: str) -> None:
    """Write a line to stderr; this is safe in a signal handler and if stderr is closed."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _watch_dvc(done: threading.Event) -> None:
    """Send SIGTERM to this process when the dvc that started it dies."""
    if "DVC_STAGE" not in os.environ:
        return
    above = _processes_up_to_dvc()

    def watch() -> None:
        while not done.wait(_LOOK):
            if not all(map(_is_alive, above)):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, daemon=True).start()


def _processes_up_to_dvc() -> list[psutil.Process]:
    """Return the parent process, and its parent if a shell runs between dvc and this process."""
    above = psutil.Process().parents()
    between = bool(above) and Path(above[0].name()).stem in _SHELLS
    return above[: 2 if between else 1]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
