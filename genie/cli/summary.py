"""The table that `make repro` prints at the end, from metrics/ and run times on this machine."""

from collections.abc import Mapping
from typing import Any

from genie.cli.run_notes import STAGES
from genie.measure.metrics import GROUPS, percent


def summary_lines(
    summary: Mapping[str, Any], seconds: Mapping[str, float]
) -> list[tuple[str, str]]:
    """Return the lines of the table, each a name and a value.

    `summary` is the content of metrics/evaluate.json; `seconds` maps stages to run times.
    """
    added = "generated" if summary["images"] else "the method"  # such as strong, which renders none
    lines = [
        ("accuracy without", _interval(summary["baseline"])),
        (f"accuracy with {added}", _interval(summary["augmented"])),
        ("gain, paired by task", _interval(summary["gain"], signed=True)),
    ]
    groups = [f"gain_{group}" for group in GROUPS if f"gain_{group}" in summary]
    if len(groups) > 1:  # a single group repeats the overall gain
        lines += [(key.replace("_", ", "), _interval(summary[key], signed=True)) for key in groups]
    spent = ", ".join(f"{name} {seconds[name]:.0f}" for name in STAGES if name in seconds)
    return [
        *lines,
        ("images generated", str(summary["images"])),
        ("mean r of the kept images", _number(summary["mean_r"])),
        ("label consistency", _number(summary["label_consistency"])),
        ("seconds per stage", spent or "not measured"),
    ]


def _interval(value: Mapping[str, Any], *, signed: bool = False) -> str:
    """Format a mean with its 95% interval and n."""
    if value["mean"] is None:
        return "not measured"
    text = percent(value["mean"], value["low"], value["high"], signed=signed)
    if value["low"] is None:
        return f"{text} %  (one task, no interval)"
    return f"{text} %  (95% interval, n = {value['n']} tasks)"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
