"""The progress bar for notebooks and the command line."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

from genie.core.progress import one

Item = TypeVar("Item")


def bar(
    items: Iterable[Item],
    label: str,
    *,
    total: int,
    unit: str = "",
    weight: Callable[[Item], int] = one,
    whole: bool = False,
) -> Iterator[Item]:
    """Iterate over items, and show a progress bar with the remaining time on stderr.

    With one process per GPU, only the first process shows the bar.
    """
    with tqdm(
        desc=label,
        total=total,
        unit=unit or "it",
        dynamic_ncols=True,
        mininterval=1,
        disable=not is_first_process(),
    ) as shown:
        for item in items:
            yield item
            shown.update(weight(item))


def is_first_process() -> bool:
    """Return whether this process writes and reports.

    With one process per GPU, only the first process does.
    """
    return os.environ.get("RANK", "0") == "0"
