"""The table of metrics and of run times on this machine that `make repro` prints at the end."""

from collections.abc import Mapping
from typing import Any

from genie.cli.run_notes import STAGES
from genie.data.tasks import FEW_QUERIES
from genie.measure.metrics import GROUPS, interval_text, percent


def summary_lines(
    summary: Mapping[str, Any], seconds: Mapping[str, float]
) -> list[tuple[str, str]]:
    """Return the lines of the table, each with a name and a value.

    `summary` is the content of metrics/evaluate.json; `seconds` maps stages to run times.
    """
    over = summary.get("interval_over", "tasks")
    pair = "query image" if over == "query images" else "task"
    added = "generated" if summary["images"] else "the method"  # such as strong, which renders none
    lines = [
        ("accuracy without", _interval(summary["baseline"], over)),
        (f"accuracy with {added}", _interval(summary["augmented"], over)),
        (f"gain, paired by {pair}", _interval(summary["gain"], over, signed=True)),
    ]
    groups = [f"gain_{group}" for group in GROUPS if f"gain_{group}" in summary]
    if len(groups) > 1:  # a single group repeats the overall gain
        lines += [
            (key.replace("_", ", "), _interval(summary[key], over, signed=True)) for key in groups
        ]
    if "queries" in summary:
        lines.append(("query images", _queries(summary, over)))
    if over != "query images" and "predict_accuracy" in summary:
        lines.append(("accuracy of genie predict", _share(summary["predict_accuracy"])))
    spent = ", ".join(f"{name} {seconds[name]:.0f}" for name in STAGES if name in seconds)
    return [
        *lines,
        ("images generated", str(summary["images"])),
        ("mean r of the kept images", _number(summary["mean_r"])),
        ("label consistency", _number(summary["label_consistency"], "not judged")),
        ("seconds per stage", spent or "not measured"),
    ]


def _queries(summary: Mapping[str, Any], over: str) -> str:
    """Return the number of query images, and how far intervals and classes depend on them."""
    same = ", the same for all support sets" if over == "support sets" else ""
    fewest = summary["queries_per_class"]
    few = f"; only {fewest} of a class, which is too few" if fewest < FEW_QUERIES else ""
    return f"{summary['queries']}{same}{few}"


def _interval(value: Mapping[str, Any], over: str, *, signed: bool = False) -> str:
    """Format a mean with its 95% interval and n."""
    if value["mean"] is None:
        return "not measured"
    if value["low"] is None:
        why = "one task" if value["n"] == 1 else f"equal in all {value['n']} {over}"
        return f"{percent(value['mean'], signed=signed)} %  ({why}, no interval)"
    share, interval = interval_text(value, over, signed=signed)
    return f"{share} %  ({interval})"


def _share(value: float) -> str:
    return f"{percent(value)} %  (the classifier of the first task)"


def _number(value: float | None, missing: str = "not measured") -> str:
    return missing if value is None else f"{value:.3f}"
