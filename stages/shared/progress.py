"""Progress bars, shown by the first process only."""

import os
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def bar(items: Iterable[Item], *, total: int, label: str, unit: str = "") -> Iterable[Item]:
    """Wrap items in a progress bar on stderr that shows the remaining time."""
    return tqdm(
        items, total=total, desc=label, unit=unit, dynamic_ncols=True, mininterval=1,
        disable=not is_first_process(),
    )  # fmt: skip


def is_first_process() -> bool:
    """Return whether this process writes and reports: with one process per GPU, only the first."""
    return os.environ.get("RANK", "0") == "0"
