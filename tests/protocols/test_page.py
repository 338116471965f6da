import shutil
from pathlib import Path

import pandas as pd
import pytest

from genie.core.errors import GenieError
from protocols.page import page

ROOT = Path(__file__).parents[2]


def test_committed_page_is_what_the_records_give():
    assert (ROOT / "docs/results.md").read_text(encoding="utf-8") == page(ROOT / "protocols")


@pytest.fixture
def root(tmp_path) -> Path:
    shutil.copytree(ROOT / "protocols/fewshot", tmp_path / "fewshot")
    for name in ("comparisons.csv", "comparisons.yaml"):
        shutil.copy(ROOT / "protocols" / name, tmp_path)
    return tmp_path


def test_columns_stand_side_by_side_and_missing_ones_are_named(root):
    (root / "page.md").write_text("{{table fewshot/1-shot | fewshot/5-shot | nowhere/1-shot}}\n")
    lines = page(root).splitlines()
    table = pd.read_csv(root / "fewshot/results.csv").set_index(["setting", "row"])
    (line,) = (line for line in lines if line.startswith("| Txt2Img |"))
    for setting in ("1-shot", "5-shot"):
        assert f"| {100 * table['accuracy'][setting, 'Txt2Img']:.1f} (+" in line
    assert "`protocols/nowhere`, 1-shot: not recorded yet." in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_part_that_is_not_known_is_named(root):
    (root / "page.md").write_text("{{figure fewshot}}\n")
    with pytest.raises(
        GenieError, match=r"\{\{figure fewshot\}\} must be one of table, comparisons"
    ):
        page(root)


def test_comparisons_of_a_setting_are_one_paragraph_clear_ones_first(root):
    table = (
        pd.read_csv(root / "comparisons.csv")
        .iloc[:3]
        .assign(
            row=["A", "A", "A"],
            other=["B", "C", "D"],
            verdict=["not clearly different from", "above", "above"],
            difference=[0.01, 0.02, 0.03],
            low=0.0,
            high=0.04,
            p_holm=[0.5, 0.04, 0.0001],
            share=["few", "accuracy", "accuracy"],
        )
    )
    table.to_csv(root / "comparisons.csv", index=False)
    (root / "page.md").write_text("{{comparisons fewshot}}\n")
    assert page(root).splitlines()[-1] == (
        "- **Fashion-MNIST, 1-shot** (n = 100). A is above C (+2.0 ± 2.0, p = 0.040) and "
        "D (+3.0 ± 2.0, p < 0.001). Not clearly different: A from B on `few` (+1.0 ± 2.0)."
    )
