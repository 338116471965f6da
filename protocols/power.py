"""How small a difference a table can see, from the spread between tasks of a table that exists.

    python -m protocols.power protocols/fewshot --setting 1-shot --tasks 100

For every row the standard deviation over tasks of its paired difference to the reference, and for
a table with `--tasks` tasks half the width of its 95% interval, and the true difference that a
two-sided paired t-test at 5% finds in four of five cases. All in points of accuracy, for tasks that
share as much of their support images as those of the table that exists.
"""

from pathlib import Path

import click
import pandas as pd
from scipy import stats

from genie.cli.table_scores import read_shared
from genie.core.tables import ROW_SCORES, read_table
from genie.measure.metrics import spread_of_mean
from protocols.specification import read_protocol


def detectable(spread: float, tasks: int, *, shared: float, power: float = 0.8) -> float:
    """Return the difference that a paired t-test over `tasks` tasks finds with this power.

    `spread` is the standard deviation of the differences. This is the usual approximation
    (t(0.975) + t(power)) s / sqrt(n), with `spread_of_mean` in place of 1 / sqrt(n).
    """
    quantiles = stats.t.ppf([0.975, power], tasks - 1)
    return float(quantiles.sum() * spread * spread_of_mean(tasks, shared))


def power_table(scores: pd.DataFrame, *, reference: str, tasks: int, shared: float) -> pd.DataFrame:
    """Return a row per method but the reference, in points; `scores` has those of one setting."""
    wide = 100 * scores.pivot(index="task", columns="row", values="accuracy")
    gaps = wide.sub(wide[reference], axis=0).drop(columns=reference)
    spread = gaps.std(ddof=1)
    half = stats.t.ppf(0.975, tasks - 1) * spread_of_mean(tasks, shared)
    return pd.DataFrame(
        {
            "spread": spread,
            "half_interval": half * spread,
            "detectable": [detectable(s, tasks, shared=shared) for s in spread],
        }
    )


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--setting", help="of the table; by default its first one")
@click.option("--tasks", type=click.IntRange(min=2), required=True, help="of the table to come")
def main(folder: Path, setting: str | None, tasks: int) -> None:
    protocol = read_protocol(folder / "protocol.yaml")
    scores = read_table(folder / "tasks.csv", ROW_SCORES)
    name = setting or next(iter(protocol.settings))
    if name not in protocol.settings:
        raise click.ClickException(
            f"--setting must be one of {', '.join(protocol.settings)}, got {name!r}"
        )
    own = scores[scores["setting"] == name]
    shared = read_shared(folder, name)
    table = power_table(own, reference=protocol.reference, tasks=tasks, shared=shared)
    click.echo(table.round(2).to_string())


if __name__ == "__main__":
    main()
