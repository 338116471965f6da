import io
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from genie.cli.styles import STYLES, sections
from genie.core.tables import COMPARISON

NAN = float("nan")
FIRST = {
    "over": "tasks", "row": "main", "parameters": "", "seed": "0", "n": 5,
    "accuracy": 0.725, "low": 0.718, "high": 0.732, "gain": 0.05, "gain_low": 0.02,
    "gain_high": 0.08, "pairs": 0, "images": 491.0, "guided_steps": 34160.0,
}  # fmt: skip
SECOND = FIRST | {
    "row": "other", "accuracy": 0.7, "pairs": 4, "to_reference": -0.025,
    "to_reference_low": -0.03, "to_reference_high": -0.02, "p": 0.0001, "p_holm": 0.0002,
}  # fmt: skip


def table(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(rows).reindex(columns=list(COMPARISON))


class Cells(HTMLParser):
    """The text of each cell of a page, and the tags that it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_cells_are_percent_with_their_interval_and_columns_without_content_are_left_out():
    ((title, cells),) = sections(table(FIRST, SECOND), "main")
    assert "over its tasks" in title
    assert list(cells.columns) == [
        *("run", "seed", "tasks", "accuracy", "gain", "minus main", "p", "images", "guided steps"),
    ]
    assert cells.loc[0].tolist() == [
        *("main", "0", "5", "72.5 ± 0.7", "+5.0 ± 3.0", "", "", "491", "34,160"),
    ]
    assert cells.loc[1, "minus main"] == "-2.5 ± 0.5 (4 tasks)"
    assert cells.loc[1, "p"] == "< 0.001"


def test_seeds_have_a_table_of_their_own():
    seeds = FIRST | {"over": "seeds", "row": "a, b", "seed": "0, 1", "n": 2}
    found = sections(table(FIRST, seeds), "main")
    assert [list(cells.columns)[:3] for _, cells in found] == [
        ["run", "seed", "tasks"],
        ["setting", "seed", "seeds"],
    ]
    assert found[1][1].loc[0].tolist()[:3] == ["a, b", "0, 1", "2"]


@pytest.mark.parametrize("style", ["terminal", "markdown"])
def test_every_line_of_a_table_has_the_same_columns(style):
    text = STYLES[style](table(FIRST, SECOND), "main")
    lines = [line for line in text.splitlines() if "72.5" in line or "70.0" in line]
    assert len(lines) == 2
    assert lines[0].index("491") == lines[1].index("491")
    assert "paired t-test" in text.replace("\n", " ")


def test_a_long_name_is_cut_in_the_terminal_alone():
    long = table(FIRST | {"row": "a" * 200})
    assert "a" * 59 + "… " in STYLES["terminal"](long, "main")
    assert all("a" * 200 in STYLES[style](long, "main") for style in ("markdown", "csv", "html"))


def test_a_bar_in_a_name_stays_in_its_cell_of_markdown():
    text = STYLES["markdown"](table(FIRST, SECOND | {"row": "a|b"}), "x|y")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert r"a\|b" in text
    assert r"minus x\|y" in text
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_csv_reads_back_as_the_comparison():
    expected = table(FIRST, SECOND)
    read = pd.read_csv(io.StringIO(STYLES["csv"](expected, "main")))
    assert list(read.columns) == list(COMPARISON)
    assert read["accuracy"].tolist() == [0.725, 0.7]
    assert read["seconds"].isna().all()


def test_page_shows_names_as_text():
    name = "<img src=x onerror=alert(1)>"
    page = Cells(STYLES["html"](table(FIRST | {"row": name, "parameters": f"a={name}"}), name))
    assert "img" not in page.tags
    assert {name, f"a={name}", f"minus {name}"} - set(page.cells) == {f"minus {name}"}
    shown = Cells(STYLES["html"](table(FIRST, SECOND), name))
    assert "img" not in shown.tags
    assert f"minus {name}" in shown.cells
    assert {"script", "link"} & page.tags == set()
