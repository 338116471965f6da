"""All comparisons that README and docs make between rows of the tables, as one family of tests.

    python -m protocols.comparisons

A comparison is between two rows of a recorded table, or between groups of queries in
`benchmarks/unusual.csv` (`protocols/comparisons.yaml`). Its interval is that of the tables:
Student's t over tasks, wider by what their support images have in common. p values are of paired
t-tests, with Holm's correction over all comparisons that are recorded: a difference that is one of
many must be clearer than a single one.
Out: protocols/comparisons.csv, a row per comparison, and forest_plot.png.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pandas as pd
import yaml
from scipy import stats

from genie.cli.table_scores import read_scores, read_shared
from genie.core.errors import GenieError
from genie.core.tables import Schema, write_table
from genie.figures.forest_plot import forest_plot
from genie.measure.metrics import Interval, holm, interval, paired_p, percent

COMPARISONS: Schema = {
    "table": str,
    "setting": str,
    "row": str,
    "other": str,
    "share": str,
    "difference": float,
    "low": float,
    "high": float,
    "n": int,
    "p": float,
    "p_holm": float,
    "verdict": str,
}
LEVEL = 0.05
VERDICTS = ("above", "below", "not clearly different from")
PROTOCOLS = Path("protocols")
UNUSUAL = "unusual"
"""The table of benchmarks/unusual.csv, whose shares are groups of queries, and its columns."""
UNUSUAL_COLUMNS = {"Txt2Img": "to_txt2img", "Img2Img H (r = 0.7)": "to_img2img"}


@dataclass(frozen=True)
class Comparison:
    """Two rows of a table under one setting.

    `share` is "accuracy", one of metrics.SHARES, or a group of `benchmarks/unusual.csv`.
    """

    table: str
    setting: str
    row: str
    other: str
    share: str = "accuracy"


@click.command()
@click.option("--protocols", "root", type=Path, default=PROTOCOLS, show_default=True)
def main(root: Path) -> None:
    """Make all comparisons, and write comparisons.csv and forest_plot.png."""
    try:
        table, missing = judged(read_comparisons(root / "comparisons.yaml"), root)
    except GenieError as error:
        raise click.ClickException(str(error)) from error
    write_table(table, root / "comparisons.csv", COMPARISONS)
    forest_plot(_plotted(table), path=root / "forest_plot.png")
    for row in table.to_dict("records"):
        click.echo(
            f"{row['table']}, {row['setting']}: {row['row']} is {row['verdict']} {compared(row)}"
        )
    click.echo(f"{len(table)} comparisons in one family")
    if missing:
        names = ", ".join(dict.fromkeys(f"{one.table} ({one.setting})" for one in missing))
        click.echo(f"{len(missing)} comparisons are not recorded yet, of {names}")


def read_comparisons(path: Path) -> list[Comparison]:
    """Read the comparisons: table, setting, and pairs [row, other] or [row, other, share].

    Raise GenieError for an entry of another form.
    """
    found = []
    for table, settings in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for setting, pairs in settings.items():
            for pair in pairs:
                if not isinstance(pair, list) or len(pair) not in (2, 3):
                    raise GenieError(
                        f"{path}: {table}, {setting}: a comparison must be [row, other] or "
                        f"[row, other, share], got {pair!r}"
                    )
                found.append(Comparison(table, setting, *pair))
    return found


def judged(comparisons: Sequence[Comparison], root: Path) -> tuple[pd.DataFrame, list[Comparison]]:
    """Return the table of the recorded comparisons (schema COMPARISONS), and those not recorded."""
    rows, missing = [], []
    for comparison in comparisons:
        try:
            rows.append(_compared(comparison, root))
        except GenieError:
            missing.append(comparison)
    table = pd.DataFrame(rows, columns=list(COMPARISONS))
    table["p_holm"] = holm(table["p"].to_list())
    table["verdict"] = list(_verdicts(table))
    return table.astype(dict(COMPARISONS)), missing


def compared(comparison: dict) -> str:
    """Return the other row with the difference, such as "B (+5.8 ± 1.4, p = 0.001)".

    p is left out where the difference is not clear.
    """
    on = "" if comparison["share"] == "accuracy" else f" on `{comparison['share']}`"
    size = percent(comparison["difference"], comparison["low"], comparison["high"], signed=True)
    p = "p < 0.001" if comparison["p_holm"] < 0.001 else f"p = {comparison['p_holm']:.3f}"
    found = size if comparison["verdict"] == VERDICTS[-1] else f"{size}, {p}"
    return f"{comparison['other']}{on} ({found})"


def images_of(table: str) -> str:
    """Return the data set of a table."""
    of_photographs = table == UNUSUAL or table.startswith("photographs")
    return "Photographs" if of_photographs else "Fashion-MNIST"


def _plotted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons with panel and label; a table's only setting is not repeated."""
    settings = table.groupby("table")["setting"].transform("nunique")
    place = table["table"].str.removeprefix("photographs-")
    place = place.where(settings == 1, place + ", " + table["setting"])
    on = (" on " + table["share"]).where(table["share"] != "accuracy", "")
    label = place + ": " + table["row"] + " minus " + table["other"] + on
    return table.assign(panel=table["table"].map(images_of), label=label)


def _compared(comparison: Comparison, root: Path) -> dict:
    """Return a comparison's row without Holm's p; raise GenieError if it is not recorded."""
    gap, p = (
        _in_group(comparison, pd.read_csv(root.parent / "benchmarks/unusual.csv"))
        if comparison.table == UNUSUAL
        else _over_tasks(comparison, root / comparison.table)
    )
    return {
        **vars(comparison),
        "difference": gap.mean,
        "low": gap.low,
        "high": gap.high,
        "n": gap.n,
        "p": 1.0 if p is None else p,
    }


def _over_tasks(comparison: Comparison, folder: Path) -> tuple[Interval, float | None]:
    """Return the difference of two rows over the tasks of a table, and its p."""
    setting, row, other = comparison.setting, comparison.row, comparison.other
    scores = read_scores(folder, setting, (row, other))
    shared = read_shared(folder, setting)
    own = scores[scores["setting"] == setting]
    wide = own.pivot(index="task", columns="row", values=comparison.share)[[row, other]].dropna()
    if wide.empty:
        raise GenieError(f"{folder} has no {comparison.share} of {row}")
    gap = interval(wide[row] - wide[other], shared=shared)
    return gap, paired_p(wide[row], wide[other], shared=shared)


def _in_group(comparison: Comparison, table: pd.DataFrame) -> tuple[Interval, float | None]:
    """Return the difference in a table of groups, and the p that its interval implies."""
    group = "all" if comparison.share == "accuracy" else comparison.share
    cells = {"setting": comparison.setting, "method": comparison.row, "group": group}
    own = table[(table[list(cells)] == pd.Series(cells)).all(axis=1)]
    if own.empty or comparison.other not in UNUSUAL_COLUMNS:
        raise GenieError(f"benchmarks/unusual.csv has no {comparison}")
    column = UNUSUAL_COLUMNS[comparison.other]
    mean, low, high = (float(own[f"{column}{end}"].iloc[0]) for end in ("", "_low", "_high"))
    freedom = int(own["n"].iloc[0]) - 1
    t = mean / ((high - low) / 2 / stats.t.ppf(0.975, freedom))
    return Interval(mean, low, high, freedom + 1), float(2 * stats.t.sf(abs(t), freedom))


def _verdicts(table: pd.DataFrame) -> Iterator[str]:
    for difference, p in zip(table["difference"], table["p_holm"], strict=True):
        above, below, unclear = VERDICTS
        yield unclear if p >= LEVEL else above if difference > 0 else below


if __name__ == "__main__":
    main()
