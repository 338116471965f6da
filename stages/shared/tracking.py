"""Curves of a run, recorded by DVCLive in .genie/runs/STAGE: report.md and plots/metrics/*.tsv.

They differ from run to run, so they are no output of a stage.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Optional, TypeVar

import numpy as np

from .places import runs_folder
from .progress import is_first_process

if TYPE_CHECKING:
    from dvclive import Live

log = logging.getLogger("genie")

Drawn = TypeVar("Drawn")


class Curves:
    """The curves of a stage's run, recorded by the first process only.

    Nothing is written before the first value. `end` writes the figures.
    """

    def __init__(self, root: Path, stage: str) -> None:
        self._folder = runs_folder(root) / stage
        self._started = not is_first_process()
        self._live: Live | None = None

    def record(self, curve: str, step: int, value: float) -> None:
        """Record a value of a named curve at a step."""
        if not self._started:
            self._live, self._started = _start(self._folder), True
        if self._live is not None:
            self._live.step = step
            self._live.log_metric(curve, value)

    def end(self) -> None:
        """Write report.md with a figure of each curve."""
        if self._live is not None:
            self._live.end()


def speed_recorder(curves: Curves, *, seconds: float = 1.0) -> Callable[[int], None]:
    """Return a function to call with the guided steps of each rendered image.

    It records the guided steps per second at intervals of at least `seconds`, by image count.
    """
    since, images, steps = time.perf_counter(), 0, 0

    def rendered(guided_steps: int) -> None:
        nonlocal since, images, steps
        images, steps = images + 1, steps + guided_steps
        passed = time.perf_counter() - since
        if passed >= seconds:
            curves.record("steps_per_second", images, steps / passed)
            since, steps = time.perf_counter(), 0

    return rendered


def kept_recorder(
    curves: Curves, kept: Callable[[list[Drawn]], np.ndarray]
) -> Callable[[list[Drawn]], np.ndarray]:
    """Return `kept`, recording the number of images kept so far after each round of drawing."""
    rounds = total = 0

    def recorded(drawn: list[Drawn]) -> np.ndarray:
        nonlocal rounds, total
        stays = kept(drawn)
        rounds, total = rounds + 1, total + int(stays.sum())
        if drawn:
            curves.record("images_kept", rounds, total)
        return stays

    return recorded


def _start(folder: Path) -> Optional["Live"]:
    """Start DVCLive, or log a warning if it cannot: it needs a commit where there is git."""
    from dvclive import Live  # imports all of DVC, which takes a second
    from scmrepo.exceptions import SCMError

    try:
        return Live(str(folder), save_dvc_exp=False, dvcyaml=None, report="md")
    except SCMError as error:
        log.warning("no curves of this run are recorded before the first commit (%s)", error)
        return None
