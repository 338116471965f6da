"""Callbacks for long loops, which show progress and record losses."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

Item = TypeVar("Item")


def one(item: object) -> int:
    """Return 1, the default weight of an item."""
    return 1


class Progress(Protocol):
    """Iterates over items and shows the progress.

    `total` is the sum of `weight(item)` over all items, and `unit` names what is counted. If
    `whole` is set, an interrupt should wait until the current item is finished, because the work on
    this item would otherwise be lost.
    """

    def __call__(
        self,
        items: Iterable[Item],
        label: str,
        *,
        total: int,
        unit: str = "",
        weight: Callable[[Item], int] = one,
        whole: bool = False,
    ) -> Iterable[Item]: ...


def silent(
    items: Iterable[Item],
    label: str,
    *,
    total: int,
    unit: str = "",
    weight: Callable[[Item], int] = one,
    whole: bool = False,
) -> Iterable[Item]:
    """Return the items without showing progress."""
    return items


def _unrecorded(curve: str, step: int, value: float) -> None:
    """Discard the value."""


@dataclass(frozen=True)
class Monitor:
    """Shows the progress of a loop, and records named curves, such as losses, by step."""

    progress: Progress = silent
    record: Callable[[str, int, float], None] = _unrecorded
