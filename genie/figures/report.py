"""The report: one HTML file with the result, its cost, and the generated images.

The template, the style and the script are in `page/`. The report needs no network and no other
file, and is reproducible byte for byte.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from genie.data.tasks import FEW_QUERIES
from genie.figures.curves import Curves
from genie.figures.gallery import Card, Gallery
from genie.measure.metrics import GROUPS, interval_text, percent

WIDEST = 20
"""Maximum number of classes for confusion tables; beyond it, only the largest changes are shown."""

CHANGES = 10

EQUAL = "All splits have the same gain, so there is no interval."

VERDICT_QUERIES = 100
"""Minimum number of query images for a verdict; the accuracy is then known to within 10 points.
"""


@dataclass(frozen=True)
class Measured:
    """The numbers and tables in the report, and the name of the method.

    `summary` and `cost` are the contents of metrics/evaluate.json and metrics/cost.json.
    `metadata` has the columns of METADATA. `confusion` is the result of
    `measure.analysis.confusion_change`.
    """

    summary: Mapping[str, Any]
    cost: Mapping[str, int]
    metadata: pd.DataFrame
    confusion: pd.DataFrame
    curves: Curves | None
    method: str


def write_report(path: Path, gallery: Gallery, measured: Measured) -> None:
    """Write the report as a single HTML file."""
    summary, metadata, confusion = measured.summary, measured.metadata, measured.confusion
    pages = Environment(
        loader=PackageLoader("genie.figures", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"data_uri": data_uri}
    pages.globals |= {"percent": percent, "interval_text": interval_text}
    generated = summary["images"] > 0
    judged = [card for card in gallery.cards if card.outcome in ("other class", "confirmed")]
    script = _page_file("report.js")
    page = pages.get_template("report.html.jinja").stream(
        summary=summary,
        cost=measured.cost,
        made=metadata.iloc[0].to_dict() if len(metadata) else None,
        added="generated images" if generated else f"the method {measured.method}",
        over=summary.get("interval_over", "tasks"),
        verdict=_verdict(summary, None if generated else measured.method),
        groups=_groups(summary),
        classes=_classes(confusion),
        share=_shares(confusion),
        changes=_changes(confusion),
        curves=measured.curves,
        gallery=gallery,
        judged=len(judged),
        failures=sum(card.outcome == "other class" for card in judged),
        data=_data(gallery),
        style=Markup(_page_file("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    page.dump(str(path), encoding="utf-8")  # streamed, because the page can be large


def data_uri(svg: str) -> str:
    """Return an SVG figure as a data URI, so that its ids do not clash with other ids."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _page_file(name: str) -> str:
    """Return the text of a file in `page/`, which the template does not escape."""
    return (files("genie.figures") / "page" / name).read_text(encoding="utf-8")


def _verdict(summary: Mapping[str, Any], method: str | None) -> str:
    """Return sentences that interpret the interval of the gain.

    `method` is the name of a method that adds no generated images, and otherwise None.
    """
    gain = summary["gain"]
    if gain["mean"] is None:
        return "No task was evaluated."
    if gain["low"] is None:
        return "One task has no interval." if gain["n"] == 1 else EQUAL
    return " ".join([_direction(summary, method), *_scope(summary)])


def _direction(summary: Mapping[str, Any], method: str | None) -> str:
    """Return whether the method helps, unless there are too few query images to tell."""
    gain, queries = summary["gain"], summary.get("queries", VERDICT_QUERIES)
    if queries < VERDICT_QUERIES:
        return f"{queries} query images are too few for a verdict."
    if gain["low"] <= 0 <= gain["high"]:
        return "The interval contains zero: there is no clear difference."
    subject, ending = (f"The method {method}", "s") if method else ("Generated images", "")
    if gain["low"] > 0:
        return f"{subject} help{ending}: the interval lies above zero."
    return f"{subject} hurt{ending}: the interval lies below zero."


def _scope(summary: Mapping[str, Any]) -> list[str]:
    """Return sentences about the scope of the intervals and about classes with few query images."""
    n, queries = summary["gain"]["n"], summary.get("queries", 0)
    sentences = {
        "support sets": f"The interval is over {n} support sets that all face the same "
        f"{queries:,} query images, and does not cover the choice of these.",
        "query images": f"The interval is over the {n:,} query images of one task, and does not "
        "cover the draw of support images.",
        "splits": f"The interval is over {n} splits of the same images, and wider because these "
        "overlap.",
    }
    found = [sentences[over]] if (over := summary.get("interval_over")) in sentences else []
    fewest = summary.get("queries_per_class", FEW_QUERIES)
    if fewest < FEW_QUERIES:
        found.append(
            f"A class has only {fewest} query images; with fewer than {FEW_QUERIES}, the accuracy "
            "of a class is uncertain."
        )
    return found


def _groups(summary: Mapping[str, Any]) -> list[str]:
    """Return the class groups for which the summary has a gain, or [] if there is only one."""
    groups = [group for group in GROUPS if f"gain_{group}" in summary]
    return groups if len(groups) > 1 else []


def _classes(confusion: pd.DataFrame) -> list[str]:
    """Return the classes in the confusion tables, or [] if there are too many to show."""
    classes = sorted(confusion["label"].unique())
    return classes if len(classes) <= WIDEST else []


def _shares(confusion: pd.DataFrame) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the shares without and with augmentation, by true and predicted class."""
    return {(r.label, r.predicted): (r.before, r.after) for r in confusion.itertuples()}


def _changes(confusion: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the pairs of classes whose confusion changed most, as rows by column name."""
    wrong = confusion[confusion["label"] != confusion["predicted"]]
    wrong = wrong.assign(change=wrong["after"] - wrong["before"])
    order = wrong["change"].abs().sort_values(ascending=False, kind="stable").index
    return wrong.loc[order[:CHANGES]].to_dict("records")


def _data(gallery: Gallery) -> dict[str, Any]:
    """Return the gallery as JSON values; cards refer to images by number."""
    number = {name: i for i, name in enumerate(gallery.images)}

    def values(card: Card) -> dict[str, Any]:
        row = asdict(card)
        for key in ("source_image", "target_image"):
            row[key] = number.get(row[key])
        row["levels"] = [
            [one.r, number[one.image], one.position, one.predicted_target] for one in card.levels
        ]
        return {key: value for key, value in row.items() if value is not None}

    return {
        "images": [base64.b64encode(webp).decode() for webp in gallery.images.values()],
        "cards": [values(card) for card in gallery.cards],
    }
