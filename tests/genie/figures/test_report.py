"""The report as an HTML parser reads it; tests/acceptance opens it in a browser."""

import base64
import hashlib
import json
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from genie.figures.curves import Curves
from genie.figures.gallery import Card, Gallery, Level
from genie.figures.report import CHANGES, WIDEST, Measured, write_report

EVIL = "<img src=x onerror=alert(1)>"
NAMES = ["bag", EVIL, '"quoted" & </script>', "猫"]
VOID = {"meta", "link", "img", "br", "input"}


@dataclass
class Page(HTMLParser):
    """The elements of a page, its words in their order, and the text inside each tag name."""

    elements: list[tuple[str, dict]] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"<{tag}> closes another element"

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]][-1] += data
            if self.open[-1] not in ("script", "style"):
                self.words += data.split()

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def data(self) -> dict:
        return json.loads(self.texts["script"][0])


def interval(mean: float, low: float | None = None, high: float | None = None, n: int = 5) -> dict:
    return {"mean": mean, "low": low, "high": high, "n": n}


SUMMARY = {
    "baseline": interval(0.6, 0.58, 0.62),
    "augmented": interval(0.65, 0.64, 0.66),
    "gain": interval(0.05, 0.04, 0.06),
    "gain_boundary": interval(0.03, 0.02, 0.04),
    "images": 491,
    "mean_r": 0.71,
    "label_consistency": None,
    "gain_few": interval(0.05, 0.04, 0.06),
}
COST = {"needed": 2440, "guided_steps_needed": 34160, "rejected": 3, "short": 1, "images": 491}
METADATA = pd.DataFrame(
    [{"method": "genie", "generator": EVIL, "scheduler": "S", "steps": 20, "guidance_scale": 3.0}]
)


def card(target: str, source: str | None, **changes: object) -> Card:
    made = Card(
        task=0,
        source=source,
        target=target,
        source_image=source and "s",
        target_image="t",
        levels=[Level(0.5, "a", 0.1, False), Level(0.7, "b", 0.9, True)],
        chosen=1,
        outcome="other class",
        verdict=EVIL,
        probability=0.8,
        choice="clear",
        shift_ratio=1.5,
    )
    return replace(made, **changes)


GALLERY = Gallery(
    cards=[card(target, source) for target in NAMES for source in NAMES if source != target],
    images={"s": b"source", "a": b"first", "b": b"second", "t": b"target"},
    total=12,
)
EMPTY = Gallery([], {}, 0)
CONFUSION = pd.DataFrame(
    [
        (label, predicted, *((0.7, 0.85) if label == predicted else (0.1, 0.05)))
        for label in NAMES
        for predicted in NAMES
    ],
    columns=["label", "predicted", "before", "after"],
)
TABLE = pd.DataFrame(
    {
        **{"r": [0.5, 0.7], "images": [12, 12], "low": [0.1, 0.4], "median": [0.2, 0.5]},
        **{"high": [0.3, 0.6], "predicted_target": [0.25, 0.75], "chosen": [5, 7]},
    }
)
CURVES = Curves(TABLE, *(f"<svg><text>{name}</text></svg>" for name in ("one", "two", "three")))


def written(path: Path, gallery: Gallery = GALLERY, **changes: object) -> Page:
    measured = Measured(SUMMARY, COST, METADATA, CONFUSION, CURVES, "strong")
    write_report(path, gallery, replace(measured, **changes))
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


@pytest.fixture
def page(tmp_path) -> Page:
    return written(tmp_path / "deep/report.html")


def test_headline_is_the_gain_with_its_interval_and_what_it_cost(page):
    assert "+5.0 ± 1.0 % 95% interval, n = 5 tasks" in page.text
    assert "Generated images help: the interval lies above zero." in page.text
    assert "34,160 guided steps" in page.text
    assert "for 2,440 rendered images" in page.text
    assert "3 rejected, 1 missing" in page.text
    assert "Label consistency" in page.text
    assert "not judged the oracle does not know all classes" in page.text
    assert page.texts["title"] == ["GeNIe report: gain +5.0 %"]


@pytest.mark.parametrize(
    ("gain", "sentence"),
    [
        (interval(-0.05, -0.06, -0.04), "Generated images hurt"),
        (interval(0.01, -0.01, 0.03), "The interval contains zero"),
        (interval(0.01, n=1), "One task has no interval"),
        (interval(0.0, n=4), "All splits have the same gain, so there is no interval."),
    ],
)
def test_sentence_interprets_the_interval(tmp_path, gain, sentence):
    assert sentence in written(tmp_path / "r.html", summary=SUMMARY | {"gain": gain}).text


def test_words_follow_a_method_without_generated_images(tmp_path):
    own = SUMMARY | {"images": 0, "gain": interval(-0.05, -0.06, -0.04)}
    page = written(tmp_path / "r.html", EMPTY, summary=own)
    assert "The method strong hurts: the interval lies below zero." in page.text
    assert "Accuracy with the method strong" in page.text
    assert page.texts["h1"] == ["What the method strong changed"]
    assert "Without the method strong" in page.texts["caption"]
    assert "enerated images" not in page.text.replace("no generated images", "")


def queried(over: str, queries: int, fewest: int, n: int = 5, **changes: object) -> dict:
    found = {"interval_over": over, "queries": queries, "queries_per_class": fewest}
    gain = interval(0.05, 0.04, 0.07, n)
    return SUMMARY | found | {"gain": gain, "predict_accuracy": 0.625} | changes


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        (
            queried("support sets", 5000, 500),
            ["Generated images help", "all face the same 5,000 query images", "n = 5 support sets",
             "first task's classifier 62.5 %"],
        ),
        (
            queried("query images", 313, 20, n=313),
            ["Generated images help", "the 313 query images of one task",
             "+5.0 % 95% interval +4.0 to +7.0, n = 313 query images",
             "A class has only 20 query images"],
        ),
        (queried("splits", 300, 30), ["5 splits of the same images, and wider"]),
        (queried("tasks", 300, 30), ["Generated images help: the interval lies above zero. The"]),
    ],
)  # fmt: skip
def test_report_says_what_intervals_are_over(tmp_path, summary, words):
    text = written(tmp_path / "r.html", summary=summary).text
    assert [part for part in words if part not in text] == []
    assert "data.tasks" not in text


@pytest.mark.parametrize("over", ["query images", "support sets", "splits"])
@pytest.mark.parametrize("low", [-0.07, -0.01, 0.02])
def test_few_query_images_give_no_verdict(tmp_path, over, low):
    few = queried(over, 28, 2, gain=interval(low + 0.02, low, low + 0.04))
    text = written(tmp_path / "r.html", summary=few).text
    assert "28 query images are too few for a verdict." in text
    assert [word for word in ("help", "hurt", "contains zero") if word in text] == []


def test_images_that_nobody_judged_are_not_counted_as_right(tmp_path):
    cards = [replace(one, outcome="not judged", verdict=None) for one in GALLERY.cards]
    page = written(tmp_path / "r.html", replace(GALLERY, cards=cards))
    assert "The labels were not judged, because the oracle does not know all classes" in page.text
    assert "failures" not in page.text
    some = [*cards[:2], *GALLERY.cards[2:], card("bag", None, outcome="confirmed")]
    text = written(tmp_path / "r.html", replace(GALLERY, cards=some)).text
    assert "10 of 11 judged images are failures" in text


def test_groups_of_classes_are_shown_where_there_are_several(page, tmp_path):
    assert "Gain, classes with" not in page.text
    several = SUMMARY | {"gain_many": interval(0.0, -0.1, 0.1)}
    text = written(tmp_path / "r.html", summary=several).text
    assert "Gain, classes with many images" in text
    assert "Gain, classes with few images" in text


def test_names_are_text_wherever_they_appear(page):
    assert page.open == []
    assert {tag for tag, attributes in page.elements if "onerror" in attributes} == set()
    assert [a for a in page.all("img") if a["src"] == "x"] == []
    for name in NAMES:
        assert name in page.text
        assert name in {one["target"] for one in page.data["cards"]}
    assert len(page.all("script")) == 2


def test_nothing_is_loaded_from_elsewhere_and_only_our_script_may_run(page):
    links = [a[key] for _, a in page.elements for key in ("src", "href") if key in a]
    assert {link.split(":")[0] for link in links if not link.startswith("#")} == {"data"}
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    digest = hashlib.sha256(page.texts["script"][1].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "default-src 'none'" in policy


def test_data_have_the_cards_in_order_and_each_image_once(page):
    images = [base64.b64decode(text) for text in page.data["images"]]
    assert images == [b"source", b"first", b"second", b"target"]
    assert [(one["target"], one["source"]) for one in page.data["cards"]] == [
        (one.target, one.source) for one in GALLERY.cards
    ]
    first = page.data["cards"][0]
    assert first["levels"] == [[0.5, 1, 0.1, False], [0.7, 2, 0.9, True]]
    assert (first["source_image"], first["target_image"]) == (0, 3)


def test_missing_values_of_a_card_are_left_out_of_the_data(tmp_path):
    bare = card(
        *("bag", None), chosen=None, outcome="rejected", verdict=None, probability=None,
        choice="none", shift_ratio=None,
    )  # fmt: skip
    page = written(tmp_path / "r.html", replace(GALLERY, cards=[bare]))
    (found,) = page.data["cards"]
    assert set(found) == {"task", "target", "target_image", "levels", "outcome", "choice"}


def test_every_picture_has_words_and_every_filter_a_label(page):
    assert all(image["alt"] for image in page.all("img"))
    labelled = {label["for"] for label in page.all("label")}
    assert labelled == {select["id"] for select in page.all("select")}
    assert labelled == {*("target", "source", "ratio", "outcome", "choice", "task"), "order"}
    assert page.all("html") == [{"lang": "en"}]


def test_confusion_before_and_after_is_shown_in_percent(page):
    shades = [a["style"] for a in page.all("td") if "style" in a]
    expected = [(0.7, 0.1), (0.85, 0.05)]
    assert shades == [
        f"--share:{right if i % 5 == 0 else wrong:.3f}"
        for right, wrong in expected
        for i in range(16)
    ]
    assert "true \\ predicted" in page.text
    assert page.texts["td"].count("85") == 4
    assert page.texts["caption"][-1] == "Confusions that changed most"


def test_largest_changes_come_first_and_stand_alone_for_many_classes(tmp_path):
    names = [f"class {i:03d}" for i in range(WIDEST + 1)]
    rows = [(a, b, 0.02, 0.02) for a in names for b in names]
    table = pd.DataFrame(rows, columns=list(CONFUSION))
    table.loc[5, "after"] = 0.30
    table.loc[7, "after"] = 0.0
    page = written(tmp_path / "r.html", confusion=table)
    assert "Without generated images" not in page.texts["caption"]
    changes = [text for text in page.texts["td"] if text[:1] in "+-"]
    assert changes[:2] == ["+28.0", "-2.0"]
    assert len(changes) == CHANGES


def test_curves_are_pictures_with_their_values_beside_them(page):
    shown = [image["src"] for image in page.all("img")]
    kind = "data:image/svg+xml;base64,"
    assert [base64.b64decode(src.removeprefix(kind)).decode() for src in shown] == [
        CURVES.position,
        CURVES.predicted_target,
        CURVES.chosen,
    ]
    assert "0.10 to 0.30" in page.text
    assert "75%" in page.text


def test_report_without_images_has_a_sentence_for_each_section(tmp_path):
    page = written(
        tmp_path / "r.html",
        EMPTY,
        metadata=METADATA.iloc[:0],
        curves=None,
        confusion=CONFUSION.iloc[:0],
    )
    assert "No images were generated." in page.text
    assert "No query image was confused with another class." in page.text
    assert page.all("form") == page.all("img") == []


def test_number_of_all_images_is_given_where_only_a_part_is_shown(tmp_path, page):
    assert "images were requested" not in page.text
    assert (
        "70,000 images were requested"
        in written(tmp_path / "r.html", replace(GALLERY, total=70000)).text
    )


def test_same_values_are_the_same_bytes(tmp_path):
    for name in "ab":
        written(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
