"""Run one row of each table again on three tasks, and fail where it differs from the record.

    python -m protocols.check

The row is the table's reference, in its first setting. Tasks are drawn one after the other, so the
first three are those of the recorded table, and `tasks.csv` holds their accuracies. What the means
over these tasks may differ by from machine to machine is `genie.tools.reproduction.TOLERANCE`. A
table whose data or models are not on this machine, or whose rows do not name their commit, is named
and left out.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pandas as pd

from genie.errors import GenieError
from genie.tables import ROW_SCORES, SCORES, read_table
from genie.tools.reproduction import TOLERANCE
from protocols.execution import run_stages
from protocols.specification import BASELINE, Run, read_protocol, runs_of
from stages.shared.params import read_yaml
from stages.validate import check_paths

TASKS = 3
PLACE = Path(".genie/check")


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("--params", "base", type=Path, default="params.yaml", show_default=True)
def main(folders: tuple[Path, ...], base: Path) -> None:
    """Run a row of each recorded table again on three tasks (FOLDERS, else all)."""
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))  # all tables share one store
    wrong: list[str] = []
    checked = 0
    for folder in folders or sorted(path.parent for path in Path("protocols").glob("*/tasks.csv")):
        try:
            run = checked_run(folder, base)
        except GenieError as error:
            click.echo(f"{folder}: left out, {error}")
            continue
        checked += 1
        click.echo(f"{folder}: {run.setting}, {run.row}")
        found = list(differences(read_table(folder / "tasks.csv", ROW_SCORES), run, scored(run)))
        wrong += [f"{folder}: {line}" for line in found]
    if wrong:
        raise click.ClickException(
            "\n".join(wrong)
            + "\nIf the new values are right, remove .genie/protocols and run make evidence."
        )
    if not checked:
        raise click.ClickException("no table could be checked; run make evidence")
    click.echo(f"{checked} tables hold within {TOLERANCE} on {TASKS} tasks")


def checked_run(folder: Path, base: Path) -> Run:
    """The reference row of a table's first setting, on three tasks, in a folder of its own.

    GenieError for data or models that are not on this machine, or for a table of earlier code.
    """
    if not (folder / "results.csv").is_file():
        raise GenieError("it has no results.csv")
    if "commit" not in pd.read_csv(folder / "results.csv"):
        raise GenieError("its rows do not name their commit; run make evidence")
    protocol = read_protocol(folder / "protocol.yaml")
    runs = runs_of(protocol, read_yaml(base), PLACE / folder.name)
    run = next(run for run in runs if run.row == protocol.reference)
    check_paths(run.params)
    data = run.params.data.model_copy(update={"tasks": min(TASKS, run.params.data.tasks)})
    params = run.params.model_copy(update={"data": data})
    return Run(run.setting, run.row, params, run.place)


def scored(run: Run) -> pd.DataFrame:
    """The scores of both classifiers (schema SCORES) by running all stages anew."""
    shutil.rmtree(run.place, ignore_errors=True)
    run_stages(run)
    return read_table(run.place / "metrics/tasks.csv", SCORES)


def differences(recorded: pd.DataFrame, run: Run, made: pd.DataFrame) -> Iterator[str]:
    """A line for each of both classifiers whose mean over the tasks is not the recorded one."""
    own = recorded[recorded["setting"] == run.setting]
    for model, row in {"baseline": BASELINE, "augmented": run.row}.items():
        actual = made[made["model"] == model].set_index("task")["accuracy"]
        expected = own[own["row"] == row].set_index("task")["accuracy"].reindex(actual.index)
        if not abs(expected.mean() - actual.mean()) <= TOLERANCE:
            yield f"{row}: recorded {expected.mean():.4f}, made {actual.mean():.4f}"


if __name__ == "__main__":
    main()
