import re
from pathlib import Path

import pandas as pd
import pytest

from genie.core.errors import FailedError
from protocols.pages import METHODS, SETTINGS, comparisons, gains, page_of, pages, read_tables
from protocols.record import FACTS, Record, read_record
from protocols.specification import BASELINE, Protocol, Setting

ROOT = Path(__file__).parents[2]
PAGES = pages(ROOT)
TABLE = Protocol(
    title="Title",
    params={},
    settings={"one": Setting()},
    rows={"A": {}, "B": {}},
    reference="B",
    paper={"one": {"A": 0.25}},
)


def record_of(**shares: float) -> Record:
    """Two tasks of the baseline and two rows; A has images, B has none."""
    values = {BASELINE: [0.1, 0.5], "A": [0.2, 0.6], "B": [0.3, 0.5]}
    scores = pd.DataFrame(
        [
            {"setting": "one", "row": row, "task": task, "accuracy": value, **shares}
            for row, own in values.items()
            for task, value in enumerate(own)
        ]
    )
    facts = {"images": [3, 0], "guided_steps": [1050, 0], "mean_r": [0.5, None], "rejected": 0}
    facts |= {"label_consistency": [0.5, None], "commit": ["abc", "def"], "machine": "x86"}
    table = pd.DataFrame({"setting": "one", "row": ["A", "B"], "shared": 0.0, **facts})
    return Record(scores, table.assign(made_from="", seconds=1800.0)[FACTS])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_committed_page_is_the_one_that_its_records_render(path):
    assert path.read_text(encoding="utf-8") == PAGES[path]


def test_readme_has_the_recorded_result():
    assert "<!-- table: metrics/evaluate.json -->\n| logistic" in PAGES[ROOT / "README.md"]


def test_page_of_results_is_short_and_its_table_has_every_method_in_every_setting():
    text = PAGES[ROOT / "docs/results.md"]
    assert len(text.split()) <= 900
    lines = [line for line in text.splitlines() if re.match(r"\| (Fashion|photographs)", line)]
    assert len(lines) == 2 * len(SETTINGS)
    assert {line.count("±") for line in lines} == {1 + len(METHODS)}


def test_number_of_a_page_is_that_of_its_record():
    tables = read_tables(ROOT / "protocols")
    shown = gains(tables)
    (row,) = shown[
        (shown["table"] == "fewshot") & (shown["setting"] == "1-shot") & (shown["row"] == "Txt2Img")
    ].to_dict("records")
    scores = read_record(ROOT / "protocols/fewshot").scores
    wide = scores[scores["setting"] == "1-shot"].pivot(
        index="task", columns="row", values="accuracy"
    )
    assert row["gain"] == pytest.approx((wide["Txt2Img"] - wide[BASELINE]).mean(), abs=1e-6)


def test_comparisons_of_all_tables_are_corrected_as_one_family():
    table = comparisons(read_tables(ROOT / "protocols"))
    assert (table["p_holm"] >= table["p"]).all()
    assert table["p_holm"].min() == pytest.approx(len(table) * table["p"].min())
    assert (table["clear"] == (table["p_holm"] < 0.05)).all()
    lines = PAGES[ROOT / "protocols/comparisons.md"].splitlines()
    assert sum(line.endswith(" yes |") for line in lines) == table["clear"].sum()
    assert sum(line.endswith(" no |") for line in lines) == (~table["clear"]).sum()


def test_page_of_a_table_has_a_line_per_method_with_all_columns():
    text = page_of(TABLE, record_of())
    assert text.startswith("# Title\n\n## one (n = 2 tasks)\n")
    head, rule, weak, a, b = (line for line in text.splitlines() if line.startswith("|"))
    assert head.startswith("| method | accuracy | gain | minus B | label consistency |")
    assert len({line.count("|") for line in (head, rule, weak, a, b)}) == 1
    assert a.endswith("| 50.0 | 0.50 | 3 | 0 | 1,050 | 25.0 |")
    assert b.startswith("| B | 40.0 ± 50.0 | +10.0 ± 100.0 | +0.0 ± 0.0 |")
    assert "Made at abc, def on x86 in 1.00 hours" in text


@pytest.mark.parametrize(
    ("shares", "shown"),
    [
        ({}, []),
        ({"few": 0.5}, []),  # the only group of classes equals the accuracy
        ({"boundary": 0.5, "few": 0.5}, ["boundary"]),
        ({"many": 0.5, "few": 0.5}, ["many", "few"]),
        ({"few": 0.5, "counter": 0.5}, ["counter"]),  # a group of queries
    ],
)
def test_page_of_a_table_shows_the_shares_that_differ_from_the_accuracy(shares, shown):
    head = next(x for x in page_of(TABLE, record_of(**shares)).splitlines() if x.startswith("|"))
    assert head.split(" | ")[2 : 2 + len(shown) + 1] == [*shown, "gain"]


def test_row_without_a_record_is_named(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t/protocol.yaml").write_text(TABLE.model_dump_json())
    with pytest.raises(FailedError, match="one: A has no record"):
        read_tables(tmp_path)
