"""Run one row of each table again on three tasks, and fail where it differs from the record.

    python -m protocols.check

The row is the table's reference, in its first setting; `protocols.run` writes what it gave, in
full, to `check.json`. Counts must be equal, and accuracies, label consistency and the mean r may
differ by what machines may (`genie.tools.reproduction.TOLERANCE`). Nothing that was made before is
read, images least of all. A table whose data or models are not on this machine is named and left
out.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from genie.errors import GenieError
from genie.tools.reproduction import disagreements
from protocols.execution import run_stages
from protocols.specification import Protocol, Run, read_protocol, runs_of
from stages.shared.params import read_yaml
from stages.validate import check_paths

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
            recorded, run = recorded_run(folder, base)
        except GenieError as error:
            click.echo(f"{folder}: left out, {error}")
            continue
        checked += 1
        click.echo(f"{folder}: {run.setting}, {run.row}")
        wrong += [f"{folder}: {line}" for line in disagreements(recorded, outcome(run))]
    if wrong:
        raise click.ClickException(
            "\n".join(wrong)
            + "\nIf the new values are right, remove .genie/protocols/NAME and run "
            "dvc repro -f protocols/NAME/dvc.yaml."
        )
    if not checked:
        raise click.ClickException("no table could be checked; run make evidence")
    click.echo(f"{checked} tables hold on {TASKS} tasks")


def recorded_run(folder: Path, base: Path) -> tuple[Mapping[str, Any], Run]:
    """What a table's `check.json` holds, and the run that made it.

    GenieError where there is none, or for data or models that are not on this machine.
    """
    path = folder / "check.json"
    if not path.is_file():
        raise GenieError("it has no check.json; run make evidence")
    run = few_tasks(read_protocol(folder / "protocol.yaml"), read_yaml(base), PLACE / folder.name)
    check_paths(run.params)
    return json.loads(path.read_text(encoding="utf-8")), run


def few_tasks(protocol: Protocol, base: Mapping[str, Any], place: Path) -> Run:
    """The run of the reference row in the first setting on three tasks."""
    run = next(run for run in runs_of(protocol, base, place) if run.row == protocol.reference)
    data = run.params.data.model_copy(update={"tasks": min(TASKS, run.params.data.tasks)})
    return Run(run.setting, run.row, run.params.model_copy(update={"data": data}), place)


def outcome(run: Run) -> dict[str, float | int | None]:
    """What a run gives, by running all stages."""
    run_stages(run)
    summary = json.loads((run.place / "metrics/evaluate.json").read_text())
    cost = json.loads((run.place / "metrics/cost.json").read_text())
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
