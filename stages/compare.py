"""Compare two folders of metrics, as CI does: the committed ones and the ones just made."""

import json
from pathlib import Path

import click

TOLERANCE = 0.02
"""Accuracies and shares may differ by this much between machines; counts not at all.

On one machine they are equal. Between kinds of processor, rounding moves a generated pixel by one
or two of 255, now and then another level is chosen, and single query images change sides.
"""


@click.command()
@click.option("--committed", type=Path, required=True)
@click.option("--made", type=Path, required=True)
def main(committed: Path, made: Path) -> None:
    """Exit with 1 unless evaluate.json agrees within the tolerance."""
    expected, found = (
        _flat(json.loads((f / "evaluate.json").read_text())) for f in (committed, made)
    )
    wrong = sorted(set(expected) ^ set(found))
    for key in sorted(set(expected) & set(found)):
        if not _agrees(expected[key], found[key]):
            wrong.append(f"{key}: committed {expected[key]}, made {found[key]}")
    if wrong:
        raise click.ClickException("metrics do not reproduce; " + "; ".join(wrong))
    click.echo(f"metrics reproduce: {len(expected)} values within {TOLERANCE}")


def _flat(value: dict, prefix: str = "") -> dict[str, float | int | None]:  # type: ignore[type-arg]
    flat: dict[str, float | int | None] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat


def _agrees(expected: float | int | None, found: float | int | None) -> bool:
    if expected is None or found is None or isinstance(expected, int):
        return expected == found
    return abs(expected - found) <= TOLERANCE


if __name__ == "__main__":
    main()
