"""Render the tables, the results page and the table in README.md from the records.

    python -m protocols.pages

The text is in protocols/templates/ (Jinja). Outputs: protocols/NAME/results.md,
protocols/comparisons.md, docs/results.md, docs/results.png, and the lines of README.md between
`<!-- table: metrics/evaluate.json -->` and `<!-- /table -->`.
"""

import json
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from genie.core.errors import FailedError
from genie.figures.gains import gains_figure
from genie.measure.comparison import ROWS, compare_pairs, compare_rows, with_holm
from genie.measure.metrics import GROUPS, percent
from protocols.record import Record, read_record
from protocols.specification import BASELINE, Protocol, read_protocol

Tables = Mapping[str, tuple[Protocol, Record]]

LEVEL = 0.05
TEMPLATES = Path(__file__).parent / "templates"

METHODS = ("Img2Img r = 0.7", "Txt2Img", "Diff-Mix", "GeNIe r = 0.8", "GeNIe-Ada (default)")
"""The rows of the results page."""

SETTINGS = {
    "1-shot": ("fewshot", "1-shot"),
    "5-shot": ("fewshot", "5-shot"),
    "ten classes": ("evidence", "logistic regression"),
    "long tail": ("longtail", "Bal-BCE"),
}
"""The settings on the results page, with the table of each and the setting's name there."""

DATA_SETS = {"Fashion-MNIST": "", "photographs": "photographs-"}
"""The data sets, with the prefix of their tables."""


def results(protocol: Protocol, record: Record) -> dict[str, pd.DataFrame]:
    """Return the rows of each setting, compared by `compare_rows`, with their facts (FACTS)."""
    found = {}
    for setting, scores in record.scores.groupby("setting", sort=False):
        own = scores.drop(columns="setting").dropna(axis="columns", how="all")
        rows = list(own["row"].unique())
        names = {"baseline": BASELINE, "reference": protocol.reference}
        table = compare_rows(own, rows, shared=record.shared(setting), **names)
        facts = record.facts[record.facts["setting"] == setting].drop(columns=["setting", "shared"])
        found[str(setting)] = table.merge(facts, on="row", how="left")
    return found


def page_of(protocol: Protocol, record: Record) -> str:
    """Return the text of a table's page."""
    settings = []
    for name, table in results(protocol, record).items():
        shares = list(table.columns[len(ROWS) + 1 : table.columns.get_loc("made_from")])
        if len(set(shares) & set(GROUPS)) == 1:  # one group of classes is the accuracy
            shares = [share for share in shares if share not in GROUPS]
        settings.append(
            {
                "name": name,
                "rows": table.to_dict("records"),
                "shares": shares,
                "paper": protocol.paper.get(name, {}),
                "shared": record.shared(name),
                "commits": ", ".join(table["commit"].dropna().unique()),
                "machines": "; ".join(table["machine"].dropna().unique()),
                "hours": table["seconds"].sum() / 3600,
            }
        )
    return _render("table.md.j2", protocol=protocol, settings=settings, baseline=BASELINE)


def pages(root: Path) -> dict[Path, str]:
    """Return the text of every page that is rendered from the records below `root`."""
    tables = read_tables(root / "protocols")
    compared = comparisons(tables)
    readme = (root / "README.md").read_text(encoding="utf-8")
    summary = json.loads((root / "metrics/evaluate.json").read_text(encoding="utf-8"))
    result = _render("readme.md.j2", **summary)
    mark = r"(<!-- table: metrics/evaluate.json -->\n).*?(<!-- /table -->)"
    lines = compared.to_dict("records")
    return {
        **{root / f"protocols/{name}/results.md": page_of(*own) for name, own in tables.items()},
        root / "protocols/comparisons.md": _render("comparisons.md.j2", lines=lines, level=LEVEL),
        root / "docs/results.md": _render("results.md.j2", **overview(tables, compared)),
        root / "README.md": re.sub(mark, rf"\g<1>{result}\g<2>", readme, flags=re.DOTALL),
    }


def write_pages(root: Path) -> None:
    """Write all pages, and the figure of the results page."""
    for path, text in pages(root).items():
        path.write_text(text, encoding="utf-8")
    shown = gains(read_tables(root / "protocols"))
    gains_figure(shown[shown["row"] != BASELINE], path=root / "docs/results.png")


def read_tables(root: Path) -> Tables:
    """Read the protocol and the record of every table below `root`, by name.

    Raise FailedError if a row has no record.
    """
    tables = {}
    for path in sorted(root.glob("*/protocol.yaml")):
        protocol, record = read_protocol(path), read_record(path.parent)
        recorded = record.digests()
        for setting in protocol.settings:
            for row in protocol.rows_in(setting):
                if (setting, row) not in recorded:
                    raise FailedError(
                        f"{path.parent}: {setting}: {row} has no record",
                        remedy="run `make evidence`",
                    )
        tables[path.parent.name] = (protocol, record)
    return tables


def comparisons(tables: Tables) -> pd.DataFrame:
    """Return the comparisons of all tables; Holm's method corrects their p-values together.

    The columns are table, setting, the columns of `compare_pairs`, p_holm and clear.
    """
    lines: list[dict[str, object]] = []
    for name, (protocol, record) in tables.items():
        for setting, pairs in protocol.comparisons.items():
            own = record.scores[record.scores["setting"] == setting].drop(columns="setting")
            found = compare_pairs(own, pairs, shared=record.shared(setting))
            lines += [{"table": name, "setting": setting, **line} for line in found]
    table = with_holm(pd.DataFrame(lines))
    return table.assign(clear=table["p_holm"] < LEVEL)


def gains(tables: Tables) -> pd.DataFrame:
    """Return the rows of the results page, with the columns data_set, shown, table and setting."""
    parts = []
    for (data_set, prefix), shown in product(DATA_SETS.items(), SETTINGS):
        folder, setting = SETTINGS[shown]
        table = results(*tables[prefix + folder])[setting].set_index("row")
        own = table.loc[[BASELINE, *METHODS]].reset_index()
        place = {"data_set": data_set, "shown": shown, "table": prefix + folder, "setting": setting}
        parts.append(own.assign(**place))
    return pd.concat(parts, ignore_index=True)


def overview(tables: Tables, compared: pd.DataFrame) -> dict[str, object]:
    """Return the values for the template of the results page."""
    names = ["table", "setting", "row", "other", "share"]
    found = compared.set_index(names)

    def comparison(*name: str) -> "pd.Series[Any]":
        """Return the comparison with the given `table`, `setting`, `row`, `other` and `share`."""
        return found.loc[name if len(name) == len(names) else (*name, "accuracy")]

    groups = gains(tables).groupby(["data_set", "shown"], sort=False)
    return {
        "methods": METHODS,
        "groups": [own.to_dict("records") for _, own in groups],
        "comparison": comparison,
        "family": len(compared),
        "names": sorted(tables),
        "baseline": BASELINE,
    }


def _render(template: str, **values: object) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters |= {"percent": _percent}
    return environment.get_template(template).render(**values)


def _percent(row: Mapping[str, Any], name: str, *ends: str, signed: bool = False) -> str:
    """Return the value `name` in percent, with ± half the width of the interval between `ends`."""
    return percent(row[name], *(row[end] for end in ends), signed=signed)


if __name__ == "__main__":
    write_pages(Path())
