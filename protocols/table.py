"""A protocol's table: accuracies with intervals, differences paired by task, and its page."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from genie.core.tables import Schema
from genie.measure.metrics import GROUPS, SHARE, SHARES, interval, percent
from protocols.specification import BASELINE, Protocol

RESULTS: Schema = {
    "setting": str,
    "row": str,
    "accuracy": float,
    "low": float,
    "high": float,
    "gain": float,
    "gain_low": float,
    "gain_high": float,
    "to_reference": float,
    "to_reference_low": float,
    "to_reference_high": float,
    "n": int,
    "shared": float,
    "boundary": float,
    "many": float,
    "medium": float,
    "few": float,
    "label_consistency": float,
    "mean_r": float,
    "images": float,
    "rejected": float,
    "guided_steps": float,
    "paper": float,
    "seconds": float,
    "commit": str,
    "machine": str,
}

LEGEND = (
    "Accuracy in percent, mean over tasks ± 95% interval: Student's t over tasks, wider by what "
    "their support images have in common (Nadeau and Bengio 2003; the column `shared` of "
    "results.csv), as if all spread came from these images: an upper bound. Query images are "
    "those of the data set. Differences are paired by task. `Weak` is the baseline: support images "
    "and weak copies, as many samples as every other row trains on. `boundary`: accuracy between "
    "the classes that are most often taken for one another on the support images, two at a time "
    "(chance is about 50)."
)

Cells = Mapping[str, object]
"""One row of the results, by column."""


def compare(protocol: Protocol, scores: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Return the table of results (schema RESULTS): means over tasks, and paired differences.

    `scores` has the columns of ROW_SCORES, and `facts` those of `run_rows`. Intervals are
    Student's t over tasks (95%), wider by what their support images have in common.
    """
    rows: list[Cells] = []
    for setting in protocol.settings:
        shared = float(facts.loc[facts["setting"] == setting, "shared"].iloc[0])
        rows += _compared(protocol, setting, scores[scores["setting"] == setting], shared)
    own = facts.drop(columns="shared")
    table = pd.DataFrame(rows).merge(own, on=["setting", "row"], how="left")
    made_by = {"commit": "", "machine": ""}  # the baseline is made by the first row
    return table.loc[:, list(RESULTS)].fillna(made_by).astype(dict(RESULTS))


def markdown(protocol: Protocol, results: pd.DataFrame) -> str:
    """Return the table for people: percentages with their interval, ours beside the paper's."""
    lines = [f"# {protocol.title}", ""]
    for setting, rows in results.groupby("setting", sort=False):
        lines += [f"## {setting} (n = {rows['n'].iloc[0]} tasks)", ""]
        lines += [*_section(rows, protocol.reference), "", _origin(rows), ""]
    return "\n".join([*lines, LEGEND, ""])


def _compared(protocol: Protocol, setting: str, scores: pd.DataFrame, shared: float) -> list[Cells]:
    """The rows of one setting, without facts."""
    wide = scores.pivot(index="task", columns="row", values="accuracy")
    names = [BASELINE, *(row for row in protocol.settings[setting].rows if row != BASELINE)]
    published = protocol.paper.get(setting, {})
    return [
        {
            "setting": setting,
            "row": row,
            **_intervals(wide, row, protocol.reference, shared),
            "shared": shared,
            **_mean_shares(scores[scores["row"] == row]),
            "paper": published.get(row),
        }
        for row in names
    ]


def _intervals(wide: pd.DataFrame, row: str, reference: str, shared: float) -> Cells:
    """Accuracy, gain over the baseline and difference to the reference, by column."""
    accuracy = interval(wide[row], bounds=SHARE, shared=shared)
    gain = interval(wide[row] - wide[BASELINE], shared=shared)
    gap = interval(wide[row] - wide[reference], shared=shared)
    return {
        "accuracy": accuracy.mean,
        "low": accuracy.low,
        "high": accuracy.high,
        "gain": gain.mean,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "to_reference": gap.mean,
        "to_reference_low": gap.low,
        "to_reference_high": gap.high,
        "n": accuracy.n,
    }


def _mean_shares(scores: pd.DataFrame) -> dict[str, float]:
    """Mean over tasks of boundary and group accuracies, NaN where there are none."""
    return {name: round(float(scores[name].mean()), 6) for name in SHARES}


def _section(rows: pd.DataFrame, reference: str) -> list[str]:
    """The lines of one setting's table."""
    shown = _shown(rows)
    head = ["method", "accuracy", *shown, "gain over weak", f"minus {reference}"]
    head += ["label consistency", "mean r", "images", "rejected", "guided steps"]
    cells = [_cells(row, shown) for row in rows.to_dict("records")]
    if rows["paper"].notna().any():
        head.append("paper")
        for line, published in zip(cells, rows["paper"], strict=True):
            line.append(percent(published))
    return [_line(head), "|---" * len(head) + "|", *map(_line, cells)]


def _shown(rows: pd.DataFrame) -> list[str]:
    """The shares that the table has; one group alone says the same as the accuracy."""
    shown = [name for name in SHARES if rows[name].notna().any()]
    groups = [name for name in shown if name in GROUPS]
    return [name for name in shown if name not in groups] if len(groups) == 1 else shown


def _cells(row: Mapping[str, float], shown: Sequence[str]) -> list[str]:
    return [
        str(row["row"]),
        percent(row["accuracy"], row["low"], row["high"]),
        *(percent(row[name]) for name in shown),
        percent(row["gain"], row["gain_low"], row["gain_high"], signed=True),
        percent(
            row["to_reference"], row["to_reference_low"], row["to_reference_high"], signed=True
        ),
        percent(row["label_consistency"]),
        _number(row["mean_r"], ".2f"),
        _number(row["images"], ".0f"),
        _number(row["rejected"], ",.0f"),
        _number(row["guided_steps"], ",.0f"),
    ]


def _origin(rows: pd.DataFrame) -> str:
    """What made a setting's rows, and the hours they took."""
    made = rows.dropna(subset="seconds")
    by = f"Commit {', '.join(made['commit'].unique())}; {'; '.join(made['machine'].unique())}"
    return (
        f"{by}; {made['seconds'].sum() / 3600:.2f} hours, without images that were there already."
    )


def _number(value: float | None, style: str) -> str:
    return "" if value is None or np.isnan(value) else format(value, style)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
