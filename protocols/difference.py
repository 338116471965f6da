"""The difference between two rows of a protocol's table, paired by task.

    python -m protocols.difference protocols/fewshot 1-shot "GeNIe r = 0.8" Txt2Img

Reads the `tasks.csv` of the folder; prints points of accuracy with their 95% interval, overall and
for the groups and the decision boundary where the table has them.
"""

from pathlib import Path

import click
import pandas as pd

from genie.metrics import interval
from protocols.run import SHARES


def differences(tasks: pd.DataFrame, *, setting: str, row: str, other: str) -> pd.DataFrame:
    """`row` minus `other`, in [-1, 1]: columns share, mean, low, high, n."""
    found = []
    own = tasks[tasks["setting"] == setting]
    for share in ("accuracy", *SHARES):
        wide = own.pivot(index="task", columns="row", values=share)
        gap = (wide[row] - wide[other]).dropna()
        if len(gap):
            found.append({"share": share, **interval(gap)})
    return pd.DataFrame(found)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("setting")
@click.argument("row")
@click.argument("other")
def main(folder: Path, setting: str, row: str, other: str) -> None:
    path = folder / "tasks.csv"
    if not path.is_file():
        raise click.ClickException(f"{path} does not exist; run `dvc repro {folder}/dvc.yaml`")
    tasks = pd.read_csv(path)
    for value, known in (
        (setting, tasks["setting"]),
        *((name, tasks.loc[tasks["setting"] == setting, "row"]) for name in (row, other)),
    ):
        if value not in set(known):
            names = ", ".join(map(repr, dict.fromkeys(known)))
            raise click.ClickException(f"{path} has no {value!r}; it has {names}")
    for gap in differences(tasks, setting=setting, row=row, other=other).itertuples():
        half = "" if pd.isna(gap.low) else f" ± {50 * (gap.high - gap.low):.1f}"
        click.echo(f"{gap.share:9} {100 * gap.mean:+.1f}{half} points (n = {gap.n})")


if __name__ == "__main__":
    main()
