"""The comparison of runs as text for the terminal, Markdown, CSV or HTML."""

import io
import math
import textwrap
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pandas as pd
from jinja2 import Environment
from tabulate import tabulate

from genie.core.errors import InvalidValueError
from genie.measure.comparison import SEEDS, TASKS
from genie.measure.metrics import percent

WIDTH = 60
"""Maximum number of characters of a cell in the terminal."""

TITLES = {
    TASKS: "Each run: 95% intervals over its tasks",
    SEEDS: "Runs that differ only in seed: 95% intervals over the means of the seeds",
}

LEGEND = (
    "Accuracy, and gain over the baseline without generated images, in percent: mean ± 95% "
    "interval (Student's t). Differences to {reference} are between equal support and query sets; "
    "p is from a paired t-test, with Holm's correction over the rows of the table."
)

Sections = list[tuple[str, pd.DataFrame]]
"""Title and cells of each table."""

Style = Callable[[pd.DataFrame, str], str]
"""Formats a comparison (schema COMPARISON) as text, given the name of the reference run."""


def terminal(table: pd.DataFrame, reference: str) -> str:
    """Return tables with aligned columns."""
    parts = [
        f"{title}\n\n{tabulate(_cut(cells), headers='keys', showindex=False, **_AS_TEXT)}\n"
        for title, cells in sections(table, reference)
    ]
    return "\n".join([*parts, textwrap.fill(LEGEND.format(reference=reference), 100)])


def markdown(table: pd.DataFrame, reference: str) -> str:
    """Return Markdown tables, with vertical bars in names escaped."""
    parts = []
    for title, cells in sections(table, reference):
        safe = cells.map(lambda text: text.replace("|", r"\|"))
        safe.columns = safe.columns.str.replace("|", r"\|")
        text = tabulate(safe, headers="keys", showindex=False, tablefmt="github", **_ALIGNED)
        parts.append(f"### {title}\n\n{text}\n")
    return "\n".join([*parts, LEGEND.format(reference=reference)])


def csv(table: pd.DataFrame, reference: str) -> str:
    """Return all columns as CSV, with shares in [0, 1]."""
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue().rstrip("\n")


def html(table: pd.DataFrame, reference: str) -> str:
    """Return a standalone HTML page, with all names escaped."""
    template = files("genie.cli").joinpath("comparison.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return page.render(
        sections=sections(table, reference), legend=LEGEND.format(reference=reference)
    )


STYLES: dict[str, Style] = {"terminal": terminal, "markdown": markdown, "csv": csv, "html": html}

ENDINGS = {".txt": "terminal", ".md": "markdown", ".csv": "csv", ".html": "html"}


def style_of(path: Path) -> str:
    """Return the style for a file name; raise InvalidValueError if the extension is unknown."""
    if path.suffix.lower() not in ENDINGS:
        raise InvalidValueError(
            f"must end in {', '.join(ENDINGS)}",
            argument="--out",
            value=str(path),
            remedy="choose one of these, or give --format",
        )
    return ENDINGS[path.suffix.lower()]


def sections(table: pd.DataFrame, reference: str) -> Sections:
    """Return the tables over tasks and over seeds, as text, without empty columns."""
    found = []
    for over, rows in table.groupby("over", sort=False):
        cells = pd.DataFrame([_cells(row, reference) for row in rows.to_dict("records")])
        found.append((TITLES[str(over)], cells.loc[:, (cells != "").any()]))
    return found


def _cells(row: dict[str, float], reference: str) -> dict[str, str]:
    """Return the cells of a row by heading."""
    unit = "seeds" if row["over"] == SEEDS else "tasks"
    gap = percent(
        row["to_reference"], row["to_reference_low"], row["to_reference_high"], signed=True
    )
    fewer = f" ({row['pairs']} {unit})" if row["pairs"] not in (0, row["n"]) else ""
    run, parameters = str(row["row"]), str(row["parameters"])
    named = {"parameters": parameters, "run": run}
    return {
        **(named if unit == "tasks" else {"setting": parameters or run}),
        "seed": str(row["seed"]),
        unit: str(row["n"]),
        "accuracy": percent(row["accuracy"], row["low"], row["high"]),
        "gain": percent(row["gain"], row["gain_low"], row["gain_high"], signed=True),
        f"minus {reference}": gap + fewer,
        "p": _p(row["p_holm"]),
        "images": _number(row["images"]),
        "guided steps": _number(row["guided_steps"]),
        "seconds": _number(row["seconds"]),
    }


_ALIGNED = {"disable_numparse": True, "colglobalalign": "left"}
_AS_TEXT = {"tablefmt": "simple", **_ALIGNED}


def _cut(cells: pd.DataFrame) -> pd.DataFrame:
    """Shorten cells that are too long for the terminal."""
    return cells.map(lambda text: text if len(text) <= WIDTH else text[: WIDTH - 1] + "…")


def _p(value: float) -> str:
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}"
