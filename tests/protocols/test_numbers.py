"""Every number of README and docs is in a record, and the lookup finds what is there alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from protocols.numbers import main, missing, pages, rounds_to
from tests.scratch import ROOT

MINUS = "\N{MINUS SIGN}"
PARAMS = "noise: {low: 0.5, high: 0.9, M: 5, min_position: 0.8}\nsources: {top_k: 4}\n"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A repository with parameters, a measured CSV, and a protocol's accuracies per task."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "benchmarks").mkdir()
    table = pd.DataFrame(
        {
            "rule": ["first at 0.65"],
            "accuracy": [0.12345],
            "low": [0.1],
            "high": [0.2],
            "seconds": [71.28],
        }
    )
    table.to_csv(tmp_path / "benchmarks/trial-one.csv", index=False)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/README.md").touch()
    (tmp_path / "zoo/quality.csv").write_text("measure,value\noracle,0.12345\n")
    folder = tmp_path / "protocols/tail"
    folder.mkdir(parents=True)
    (folder / "protocol.yaml").write_text("rows: {A: {noise.r: 0.3}, B: {}}\n")
    (folder / "results.csv").write_text("setting,row,shared\ns,A,0.2\n")
    for name in ("dvc.yaml", "results.md"):
        (folder / name).touch()
    few = {"A": (0.1, 0.3, 0.5), "B": (0.25, 0.40, 0.53), "C": (0.7, 0.8, 0.91)}
    scores = [
        {"setting": "s", "row": row, "task": task, "accuracy": value / 2, "few": value}
        for row, values in few.items()
        for task, value in enumerate(values)
    ]
    pd.DataFrame(scores).to_csv(folder / "tasks.csv", index=False)
    return tmp_path


def not_found(root: Path, text: str) -> list[tuple[int, str]]:
    """Line and text of the numbers of a page of docs that are found nowhere."""
    page = root / "docs/page.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(text)
    return [(number.line, number.text) for number, _ in missing(page, root)]


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_number_of_a_page_is_in_a_record_that_its_section_names(page):
    found = [f"{page.name}:{number.line}: {number.text}" for number, _ in missing(page, ROOT)]

    assert found == []


def test_a_made_up_number_is_named_with_its_line_and_a_recorded_one_is_not(scratch, monkeypatch):
    text = "# Trial\n\nIn `benchmarks/trial-one.csv`\n71.3 seconds, not 71.4.\n"
    assert not_found(scratch, text) == [(4, "71.4")]

    monkeypatch.chdir(scratch)
    result = CliRunner().invoke(main, ["docs/page.md"])
    assert result.exit_code == 1
    assert "docs/page.md:4: 71.4 is not in benchmarks/trial-one.csv" in result.output

    assert not_found(scratch, text.replace(", not 71.4", "")) == []
    assert CliRunner().invoke(main, ["docs/page.md"]).exit_code == 0


@pytest.mark.parametrize(
    "name",
    [
        "[models](../zoo/README.md)",
        "[table](../benchmarks/trial-one.csv)",
        "`benchmarks/trial-one.csv`",
        "`python -m benchmarks.trial`",
        "\n\n```\npython -m benchmarks.trial --fast\n```",
    ],
)
def test_a_record_is_named_by_link_path_or_command(scratch, name):
    assert not_found(scratch, f"12.3 without a name\n\n# A\n\n{name}\n\n12.3\n") == [(1, "12.3")]


@pytest.mark.parametrize("name", ["", "`python -m benchmarks.tri`", "[page](https://a.b/71.28)"])
def test_a_record_that_is_not_named_holds_nothing(scratch, name):
    assert not_found(scratch, f"{name} took 71.28 s") == [(1, "71.28")]


def test_names_hold_for_a_section_and_those_below_it_alone(scratch):
    text = "# Page\n\n## A\n\n`benchmarks/trial-one.csv`\n\n### B\n\n71.28\n\n## C\n\n71.28\n"
    assert not_found(scratch, text) == [(13, "71.28")]

    on_top = text.replace("# Page\n", "# Page\n\n`benchmarks/trial-one.csv`\n", 1)
    assert not_found(scratch, on_top) == []


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("0.12", True),
        ("12.3%", True),  # a share as a percentage
        ("12.3 %", True),
        ("12.34%", True),  # 12.345 lies half-way
        ("12.35%", True),
        ("12.33%", False),
        ("12.3", True),  # a share in points
        ("+12.3", True),
        (f"{MINUS}12.3", False),
        ("71.3", True),
        ("71%", False),  # a value above 1 is no share
        ("7128%", False),
        ("12.3 ± 5.0%", True),
        ("12.3 ± 5.1%", False),
        ("12.4 ± 5.0", False),
        ("± 5.0", True),
        ("0.65", True),  # in a text
        ("65%", False),
        ("71.28.1", True),  # a version
    ],
)
def test_numbers_are_compared_at_the_precision_that_is_printed(scratch, printed, found):
    text = f"`benchmarks/trial-one.csv` {printed} of it"
    assert (not_found(scratch, text) == []) is found


@given(st.integers(-99_999, 99_999), st.integers(0, 4))
def test_a_value_is_found_by_what_it_rounds_to_and_by_nothing_farther(value, places):
    exact = value / 1000
    printed = float(f"{exact:.{places}f}")
    assert rounds_to(np.array([exact]), printed, places).all()
    assert not rounds_to(np.array([exact]), printed + 2 * 10.0**-places, places).any()


def test_paired_differences_of_any_two_rows_are_found_with_their_interval(scratch):
    gaps = np.array([0.15, 0.10, 0.03])
    half = float(stats.t.ppf(0.975, 2) * gaps.std(ddof=1) * (1 / 3 + 0.2 / 0.8) ** 0.5)
    right = f"{100 * gaps.mean():.1f} ± {100 * half:.1f}"
    wrong = f"{100 * gaps.mean():.1f} ± {100 * half + 0.3:.1f}"
    named = f"`dvc repro protocols/tail/dvc.yaml`: few-shot classes, B gains {right}, not {wrong}"
    assert not_found(scratch, named) == [(1, wrong)]

    linked = f"[table](../protocols/tail/results.md): A is {right} points below, or {MINUS}{right}"
    assert not_found(scratch, linked) == []


def test_accuracies_of_single_tasks_and_differences_as_percentages_are_not_results(scratch):
    text = "`protocols/tail`: 53.0% in a task, 30.0% on average; 9.3% better"
    assert not_found(scratch, text) == [(1, "53.0%"), (1, "9.3%")]


def test_noise_ratios_and_named_parameters_are_found(scratch):
    assert not_found(scratch, "r = 0.7 of the grid, r = 0.3 of a protocol") == []
    assert not_found(scratch, "r = 0.65") == [(1, "0.65")]
    assert not_found(scratch, "`noise.min_position` is 0.8, not 0.9") == [(1, "0.9")]


def test_json_gives_means_with_intervals_and_errors_and_code_its_constants(scratch):
    record = '{"gain": {"mean": 0.5, "low": 0.4, "high": 0.6}, "fid": 46.37, "fid_deviation": 0.36}'
    (scratch / "metrics").mkdir()
    (scratch / "metrics/evaluate.json").write_text(record)
    (scratch / "genie").mkdir()
    (scratch / "genie/noise.py").write_text('"""A gain of 0.7."""\nUNCLEAR = 1.1\n')
    text = "`metrics/evaluate.json` 50.0 ± 10.0%, 46.4 ± 0.4, not 50.0 ± 0.4%"
    assert not_found(scratch, text) == [(1, "50.0 ± 0.4%")]
    assert not_found(scratch, "`genie/noise.py`: 1.1, not 0.7") == [(1, "0.7")]


def test_code_links_and_the_level_of_an_interval_are_left_out(scratch):
    text = "`0.11` [a](b-0.12.md) (95% interval)\n\n```\n0.13\n```\n"
    assert not_found(scratch, text) == []
    assert not_found(scratch, "95% of it, [0.14](b.md), **0.15**") == [
        (1, "95%"),
        (1, "0.14"),
        (1, "0.15"),
    ]


def test_a_mark_covers_the_block_after_it_or_the_next_number_of_its_line(scratch):
    block = "<!-- machine -->\n- 0.1 s\n- 0.2 s\n\nand 0.3\n"
    assert not_found(scratch, block) == [(5, "0.3")]

    line = "The paper has <!-- paper -->+1.4 ± 0.2, we\nhave 0.4"
    assert not_found(scratch, line) == [(2, "0.4")]

    as_html = "<!-- paper -->+1.4 is what the paper has"  # Markdown shows such a line as it is
    assert not_found(scratch, as_html) == [(1, "+1.4")]


def test_a_mark_with_a_heading_covers_the_columns_that_begin_so(scratch):
    table = "<!-- paper: paper -->\n| a | paper: few |\n|---|---|\n| 0.1 | 0.2 |\n"
    assert not_found(scratch, table) == [(4, "0.1")]
