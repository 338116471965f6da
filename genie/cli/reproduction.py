"""Comparison of metrics with metrics that were committed on another machine."""

from collections.abc import Mapping
from typing import Any

TOLERANCE = 0.02
"""The largest difference in accuracies and shares between machines; counts must be equal.

On one machine, all values are equal. On another kind of processor, rounding changes pixels of
generated images by 1 or 2 of 255. Occasionally another level is then chosen, and the predictions
for a few query images change.
"""


def disagreements(committed: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """Return a line for each value that only one side has or that differs beyond TOLERANCE."""
    expected, actual = _flat(committed), _flat(made)
    wrong = [f"{key}: only on one side" for key in sorted(set(expected) ^ set(actual))]
    for key in sorted(set(expected) & set(actual)):
        if not _agrees(expected[key], actual[key]):
            wrong.append(f"{key}: committed {expected[key]}, made {actual[key]}")
    return wrong


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, float | int | str | None]:
    flat: dict[str, float | int | str | None] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat


def _agrees(expected: float | int | str | None, actual: float | int | str | None) -> bool:
    if isinstance(expected, float) and isinstance(actual, float | int):
        return abs(expected - actual) <= TOLERANCE
    return expected == actual
