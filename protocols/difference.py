"""The difference between two rows of a protocol's table, paired by task.

    python -m protocols.difference protocols/fewshot 1-shot "GeNIe r = 0.8" Txt2Img

Reads `tasks.csv` of the folder. Prints points of accuracy with their 95% interval, overall and for
the groups and the decision boundary if the table has them.
"""

from pathlib import Path

import click
import pandas as pd

from genie.errors import GenieError
from genie.measure.metrics import Interval, interval
from genie.tables import read_table
from protocols.table import ROW_SCORES, SHARES, percent


def differences(scores: pd.DataFrame, *, setting: str, row: str, other: str) -> dict[str, Interval]:
    """`row` minus `other` in [-1, 1], by share: "accuracy" and those of SHARES that both have."""
    own = scores[scores["setting"] == setting]
    found = {}
    for share in ("accuracy", *SHARES):
        wide = own.pivot(index="task", columns="row", values=share)
        gap = (wide[row] - wide[other]).dropna()
        if len(gap):
            found[share] = interval(gap)
    return found


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("setting")
@click.argument("row")
@click.argument("other")
def main(folder: Path, setting: str, row: str, other: str) -> None:
    try:
        scores = read_scores(folder)
        check_name(setting, scores["setting"], folder)
        for name in (row, other):
            check_name(name, scores.loc[scores["setting"] == setting, "row"], folder)
    except GenieError as error:
        raise click.ClickException(str(error)) from error
    for share, gap in differences(scores, setting=setting, row=row, other=other).items():
        points = percent(gap.mean, gap.low, gap.high, signed=True)
        click.echo(f"{share:9} {points} points (n = {gap.n})")


def read_scores(folder: Path) -> pd.DataFrame:
    """The folder's table of scores; GenieError if there is none."""
    path = folder / "tasks.csv"
    if not path.is_file():
        raise GenieError(f"{path} does not exist; run `dvc repro {folder}/dvc.yaml`")
    return read_table(path, ROW_SCORES)


def check_name(name: str, known: pd.Series, folder: Path) -> None:
    """GenieError unless the table has a setting or row of this name."""
    if name not in set(known):
        names = ", ".join(map(repr, dict.fromkeys(known)))
        raise GenieError(f"{folder / 'tasks.csv'} has no {name!r}; it has {names}")


if __name__ == "__main__":
    main()
