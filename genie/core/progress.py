"""Arguments of long loops that show their progress."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

Item = TypeVar("Item")


def one(item: object) -> int:
    """Count an item as one."""
    return 1


class Progress(Protocol):
    """Iterates over items and shows the progress.

    `total` is the sum of `weight(item)` over all items, and `unit` names what is counted. With
    `whole`, an item that has begun should be finished before the program is interrupted, because
    its work would be lost.
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
    """Show nothing."""
    return items


def _unrecorded(curve: str, step: int, value: float) -> None:
    """Record nothing."""


@dataclass(frozen=True)
class Monitor:
    """Shows a loop's progress, and records values of named curves by step, such as losses."""

    progress: Progress = silent
    record: Callable[[str, int, float], None] = _unrecorded
