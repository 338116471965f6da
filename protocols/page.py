"""Write docs/results.md from the records, so that no number in it is typed.

    python -m protocols.page

`protocols/page.md` holds the text, with a line in double braces where a part is made:
`{{table fewshot/1-shot | fewshot/5-shot}}` puts the recorded columns side by side, `{{comparisons
fewshot}}` gives the results of a table's comparisons (`protocols/comparisons.csv`), `{{family}}`
how many comparisons are one family, and `{{hours}}` what the tables cost.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click
import pandas as pd

from genie.core.errors import GenieError
from genie.core.tables import read_table
from genie.measure.metrics import percent
from protocols.comparisons import COMPARISONS, PROTOCOLS, VERDICTS, compared, images_of
from protocols.specification import BASELINE

PAGE = Path("docs/results.md")
NOTICE = "<!-- Written by `python -m protocols.page` from protocols/page.md; edit that file. -->"


@click.command()
@click.option("--protocols", "root", type=Path, default=PROTOCOLS, show_default=True)
@click.option("--out", type=Path, default=PAGE, show_default=True)
def main(root: Path, out: Path) -> None:
    """Write the page of results from the tables and comparisons."""
    try:
        out.write_text(page(root), encoding="utf-8")
    except GenieError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out} written")


def page(root: Path) -> str:
    """Return the page: `page.md` with its parts. Raise GenieError for an unknown part."""
    text = (root / "page.md").read_text(encoding="utf-8")
    made = re.sub(r"^\{\{(\w+) ?(.*)\}\}$", lambda found: _part(found, root), text, flags=re.M)
    return f"{NOTICE}\n{made}"


def _part(found: re.Match[str], root: Path) -> str:
    parts: Mapping[str, Callable[[str, Path], Iterator[str]]] = {
        "table": _table,
        "comparisons": _comparisons,
        "family": _family,
        "hours": _hours,
    }
    if found[1] not in parts:
        raise GenieError(f"{root}/page.md: {found[0]} must be one of {', '.join(parts)}")
    return "\n".join(parts[found[1]](found[2], root))


def _table(names: str, root: Path) -> Iterator[str]:
    """Columns of the form folder/setting, side by side: accuracy and gain over the baseline."""
    places = [name.strip().split("/", 1) for name in names.split("|")]
    columns = {(folder, setting): _rows(root / folder, setting) for folder, setting in places}
    recorded = {key: rows for key, rows in columns.items() if len(rows)}
    if recorded:
        cells = {
            (place, heading): column
            for place, rows in recorded.items()
            for heading, column in _columns(*place, rows)
        }
        table = pd.DataFrame(cells).fillna("")
        order = [row for rows in recorded.values() for row in rows.index]
        table = table.reindex([BASELINE, *(r for r in dict.fromkeys(order) if r != BASELINE)])
        yield "| method | " + " | ".join(heading for _, heading in cells) + " |"
        yield "|---" * (len(table.columns) + 1) + "|"
        yield from (f"| {name} | " + " | ".join(row) + " |" for name, row in table.iterrows())
        yield from _remarks(recorded)
    for folder, setting in columns:
        if (folder, setting) not in recorded:
            yield f"\n`protocols/{folder}`, {setting}: not recorded yet."


def _remarks(recorded: Mapping[tuple[str, str], pd.DataFrame]) -> Iterator[str]:
    """What tasks share in each column, and where the full tables are."""
    shared = [
        f"{100 * rows['shared'].iloc[0]:.1f}% ({_place(*place)})"
        for place, rows in recorded.items()
    ]
    folders = dict.fromkeys(folder for folder, _ in recorded)
    links = [f"[{images_of(name)}](../protocols/{name}/results.md)" for name in folders]
    yield f"\nOf their support images, two tasks share {', '.join(shared)}."
    yield f"Full tables: {', '.join(links)}."


def _place(folder: str, setting: str) -> str:
    return f"{images_of(folder)}, {setting}"


def _rows(folder: Path, setting: str) -> pd.DataFrame:
    """The recorded rows of a setting by name; none if there is no record."""
    path = folder / "results.csv"
    if not path.is_file():
        return pd.DataFrame()
    table = pd.read_csv(path)
    return table[table["setting"] == setting].set_index("row")


def _columns(folder: str, setting: str, rows: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """The columns of a recorded setting, with headings; shares that it lacks are left out."""
    yield f"{_place(folder, setting)} (n = {rows['n'].iloc[0]})", rows.apply(_accuracy, axis=1)
    for share in ("few", "label_consistency", "paper"):
        if rows[share].notna().any() and (share != "few" or rows["many"].notna().any()):
            yield share.replace("_", " "), rows[share].map(percent)


def _accuracy(row: pd.Series) -> str:
    """Accuracy, with its interval for the baseline and the gain and its interval otherwise."""
    if row.name == BASELINE:
        return percent(row["accuracy"], row["low"], row["high"])
    gain = percent(row["gain"], row["gain_low"], row["gain_high"], signed=True)
    return f"{percent(row['accuracy'])} ({gain})"


def _comparisons(names: str, root: Path) -> Iterator[str]:
    """A paragraph for each setting of the tables: clear differences, then the others."""
    table = read_table(root / "comparisons.csv", COMPARISONS)
    own = table[table["table"].isin(names.split())]
    yield "What this supports ([all comparisons](../protocols/comparisons.csv)):\n"
    for (folder, setting), rows in own.groupby(["table", "setting"], sort=False):
        found = ". ".join(_sentences(rows))
        yield f"- **{_place(folder, setting)}** (n = {rows['n'].iloc[0]}). {found}."


def _sentences(comparisons: pd.DataFrame) -> Iterator[str]:
    """A sentence for each row that differs clearly from others, and one for the rest."""
    above, below, unclear = VERDICTS
    for verdict in (above, below):
        for row, others in _others(comparisons[comparisons["verdict"] == verdict]):
            yield f"{row} is {verdict} {others}"
    if rest := list(_others(comparisons[comparisons["verdict"] == unclear])):
        yield "Not clearly different: " + "; ".join(f"{row} from {others}" for row, others in rest)


def _others(comparisons: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Each row with all that it is compared with, in words."""
    for row, own in comparisons.groupby("row", sort=False):
        others = [compared(comparison) for comparison in own.to_dict("records")]
        yield str(row), ", ".join(others[:-1]) + " and " * (len(others) > 1) + others[-1]


def _family(_: str, root: Path) -> Iterator[str]:
    table = read_table(root / "comparisons.csv", COMPARISONS)
    yield f"The {len(table)} comparisons of this page are one family."


def _hours(_: str, root: Path) -> Iterator[str]:
    """What each recorded table cost, and the commits that made its rows."""
    names = [path.parent.name for path in sorted(root.glob("*/results.csv"))]
    made = {
        name: pd.read_csv(root / name / "results.csv").dropna(subset="seconds") for name in names
    }
    yield "| table | hours | guided steps | commits | machine |"
    yield "|---|---|---|---|---|"
    for name, rows in made.items():
        commits, machines = (", ".join(rows[key].unique()) for key in ("commit", "machine"))
        yield f"| {name} | {_spent(rows)} | {commits} | {machines} |"
    yield f"| all | {_spent(pd.concat(made.values()))} | | |"


def _spent(rows: pd.DataFrame) -> str:
    return f"{rows['seconds'].sum() / 3600:.2f} | {rows['guided_steps'].sum():,.0f}"


if __name__ == "__main__":
    main()
