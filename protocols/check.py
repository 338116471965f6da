"""Run one row of each table again on three tasks, and fail where it differs from the record.

    python -m protocols.check

The row is the table's reference, in its first setting; `protocols.run` writes its result, in full,
to `check.json`. Counts must be equal. Accuracies, label consistency and the mean r may differ by
as much as between machines (`genie.cli.reproduction.TOLERANCE`). No result or image of an earlier
run is read. A table whose data or models are not on this machine is named and left out.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from genie.cli.messages import in_keys
from genie.cli.reproduction import disagreements
from genie.core.errors import GenieError
from genie.settings import read_yaml, require_paths
from protocols.execution import run_stages
from protocols.specification import Protocol, Row, read_protocol, rows_of

TASKS = 3
PLACE = Path(".genie/check")


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("--params", "base", type=Path, default="params.yaml", show_default=True)
def main(folders: tuple[Path, ...], base: Path) -> None:
    """Run a row of each recorded table again on three tasks (FOLDERS, else all)."""
    shutil.rmtree(PLACE, ignore_errors=True)
    os.environ["DVC_ROOT"] = str(PLACE.resolve())  # a store that all tables share
    wrong: list[str] = []
    checked = 0
    for folder in folders or sorted(path.parent for path in Path("protocols").glob("*/check.json")):
        try:
            recorded, row = recorded_row(folder, base)
        except GenieError as error:
            click.echo(f"{folder}: left out, {in_keys(error)}")
            continue
        checked += 1
        click.echo(f"{folder}: {row.setting}, {row.name}")
        wrong += [f"{folder}: {line}" for line in disagreements(recorded, outcome(row))]
    if wrong:
        raise click.ClickException(
            "\n".join(wrong)
            + "\nIf the new values are right, remove .genie/protocols/NAME and run "
            "dvc repro -f protocols/NAME/dvc.yaml."
        )
    if not checked:
        raise click.ClickException("no table could be checked; run make evidence")
    click.echo(f"{checked} tables hold on {TASKS} tasks")


def recorded_row(folder: Path, base: Path) -> tuple[Mapping[str, Any], Row]:
    """Return the content of a table's `check.json`, and the row that made it.

    Raise GenieError if there is none, or for data or models that are not on this machine.
    """
    path = folder / "check.json"
    if not path.is_file():
        raise GenieError("it has no check.json; run make evidence")
    row = few_tasks(read_protocol(folder / "protocol.yaml"), read_yaml(base), PLACE / folder.name)
    require_paths(row.params)
    return json.loads(path.read_text(encoding="utf-8")), row


def few_tasks(protocol: Protocol, base: Mapping[str, Any], place: Path) -> Row:
    """Return the reference row in the first setting, on three tasks."""
    row = next(row for row in rows_of(protocol, base, place) if row.name == protocol.reference)
    data = row.params.data.model_copy(update={"tasks": min(TASKS, row.params.data.tasks)})
    return replace(row, params=row.params.model_copy(update={"data": data}), place=place)


def outcome(row: Row) -> dict[str, float | int | None]:
    """Run all stages of a row, and return its result."""
    run_stages(row)
    summary = json.loads((row.place / "metrics/evaluate.json").read_text())
    cost = json.loads((row.place / "metrics/cost.json").read_text())
    return {
        "baseline": summary["baseline"]["mean"],
        "augmented": summary["augmented"]["mean"],
        "label_consistency": summary["label_consistency"],
        "mean_r": summary["mean_r"],
        "images": summary["images"],
        "guided_steps": cost["guided_steps_needed"],
    }


if __name__ == "__main__":
    main()
