"""Curves of a run, which DVCLive records in .genie/runs/STAGE.

The files (report.md and plots/metrics/*.tsv) differ from run to run, so they are not outputs of a
stage.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, TypeVar

from genie.cli.places import runs_folder
from genie.core.progress import Progress
from genie.progress import is_first_process

if TYPE_CHECKING:
    from dvclive import Live

log = logging.getLogger("genie")

Item = TypeVar("Item")


class Curves:
    """The curves of a stage's run, recorded by the first process only.

    Nothing is written before the first value is recorded. `end` writes the figures.
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
        """Write report.md with a figure for each curve."""
        if self._live is not None:
            self._live.end()


def recording_speed(progress: Progress, curves: Curves, *, seconds: float = 1.0) -> Progress:
    """Return a progress bar that also records the guided steps per second of rendering.

    A value is recorded at most once every `seconds`, with the number of images rendered so far.
    """

    def shown(items: Iterable[Item], label: str, **options: Any) -> Iterator[Item]:
        since, images, steps = time.perf_counter(), 0, 0
        for item in progress(items, label, **options):
            yield item
            if label != "generate":
                continue
            results: Any = item  # a list of `Rendered`
            images += len(results)
            steps += sum(result.guided_steps for result in results)
            passed = time.perf_counter() - since
            if passed >= seconds:
                curves.record("steps_per_second", images, steps / passed)
                since, steps = time.perf_counter(), 0

    return shown


def _start(folder: Path) -> Optional["Live"]:
    """Start DVCLive; in a git repository without commits, log a warning and return None."""
    from dvclive import Live  # imports all of DVC, which takes a second
    from scmrepo.exceptions import SCMError

    try:
        return Live(str(folder), save_dvc_exp=False, dvcyaml=None, report="md")
    except SCMError as error:
        log.warning("no curves of this run are recorded before the first commit (%s)", error)
        return None
