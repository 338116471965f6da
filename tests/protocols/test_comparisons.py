from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from scipy import stats

from genie.core.errors import GenieError
from genie.measure.metrics import interval
from protocols.comparisons import (
    UNUSUAL,
    Comparison,
    compared,
    judged,
    main,
    read_comparisons,
)

ROOT = Path(__file__).parents[2]
TASKS = 30


@pytest.fixture
def root(tmp_path) -> Path:
    """A table of three rows, the second a tenth above the first and the third level with it."""
    random = np.random.default_rng(0)
    easy = random.uniform(0.4, 0.6, TASKS)
    rows = {
        "A": easy,
        "B": easy + 0.1 + random.normal(0, 0.05, TASKS),
        "C": easy + random.normal(0, 0.05, TASKS),
    }
    table = pd.concat(
        pd.DataFrame({"setting": "one", "row": row, "task": range(TASKS), "accuracy": values})
        for row, values in rows.items()
    ).assign(boundary=np.nan, many=np.nan, medium=np.nan, few=np.nan)
    (tmp_path / "t").mkdir()
    table.to_csv(tmp_path / "t/tasks.csv", index=False)
    pd.DataFrame({"setting": ["one"], "shared": 0.0}).to_csv(
        tmp_path / "t/results.csv", index=False
    )
    return tmp_path


def test_comparisons_are_paired_t_tests_and_one_family(root):
    pairs = [("B", "A"), ("C", "A"), ("A", "B")]
    table, missing = judged([Comparison("t", "one", *pair) for pair in pairs], root)
    assert not missing
    wide = pd.read_csv(root / "t/tasks.csv").pivot(index="task", columns="row", values="accuracy")
    tests = [stats.ttest_rel(wide[row], wide[other]) for row, other in pairs]
    assert table["p"].tolist() == pytest.approx([test.pvalue for test in tests])
    for (_, row), test in zip(table.iterrows(), tests, strict=True):
        low, high = test.confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-6)
    # Holm's correction by hand: the smallest of three p values times 3, the next times 2, ...
    order = np.argsort(table["p"])
    steps = [table["p"][i] * (3 - rank) for rank, i in enumerate(order)]
    expected = np.minimum(1, np.maximum.accumulate(steps))
    assert table["p_holm"][order].tolist() == pytest.approx(expected)
    assert table["verdict"].tolist() == ["above", "not clearly different from", "below"]


def test_comparison_without_a_record_is_named_and_no_part_of_the_family(root):
    comparisons = [
        Comparison("t", "one", "B", "A"),
        Comparison("t", "one", "D", "A"),
        Comparison("u", "one", "A", "B"),
    ]
    table, missing = judged(comparisons, root)
    assert (len(table), missing) == (1, comparisons[1:])
    assert table["p_holm"][0] == pytest.approx(table["p"][0])


def test_what_a_row_is_compared_with_has_its_size_and_p_where_clear(root):
    pairs = [Comparison("t", "one", *pair) for pair in ("BA", "AB", "CA")]
    table, _ = judged(pairs, root)
    above, below, unclear = map(compared, table.to_dict("records"))
    gap, half = 100 * table["difference"], 50 * (table["high"] - table["low"])
    assert above == f"A (+{gap[0]:.1f} ± {half[0]:.1f}, p < 0.001)"
    assert below == f"B ({gap[1]:.1f} ± {half[1]:.1f}, p < 0.001)"
    assert unclear == f"A ({gap[2]:+.1f} ± {half[2]:.1f})"


def test_comparison_on_a_group_of_queries_has_the_p_of_its_interval(root):
    """`benchmarks/unusual.csv` holds intervals; the p of the t-test follows from them."""
    wide = pd.read_csv(root / "t/tasks.csv").pivot(index="task", columns="row", values="accuracy")
    gap = interval(wide["B"] - wide["A"])
    record = {"setting": "s", "method": "B", "group": "counter", "to_txt2img": gap.mean}
    record |= {"to_txt2img_low": gap.low, "to_txt2img_high": gap.high, "n": gap.n}
    (root / "benchmarks").mkdir()
    pd.DataFrame([record]).to_csv(root / "benchmarks/unusual.csv", index=False)
    comparisons = [
        Comparison("unusual", "s", "B", "Txt2Img", share) for share in ("counter", "aligned")
    ]
    table, missing = judged(comparisons, root / "protocols")
    assert missing == comparisons[1:]
    expected = stats.ttest_rel(wide["B"], wide["A"]).pvalue
    assert table["p"][0] == pytest.approx(expected, rel=1e-3)


def test_command_writes_the_table(root):
    (root / "comparisons.yaml").write_text(yaml.safe_dump({"t": {"one": [["B", "A"], ["D", "A"]]}}))
    done = CliRunner().invoke(main, ["--protocols", str(root)])
    assert done.exit_code == 0, done.output
    assert "1 comparisons in one family" in done.output
    assert "1 comparisons are not recorded yet, of t (one)" in done.output
    assert pd.read_csv(root / "comparisons.csv")["row"].tolist() == ["B"]


def test_comparison_of_another_form_is_named(root):
    (root / "comparisons.yaml").write_text(yaml.safe_dump({"t": {"one": [["B"]]}}))
    with pytest.raises(GenieError, match=r"t, one: a comparison must be .*, got \['B'\]"):
        read_comparisons(root / "comparisons.yaml")


def test_committed_comparisons_follow_from_the_committed_tables():
    table, missing = judged(
        read_comparisons(ROOT / "protocols/comparisons.yaml"), ROOT / "protocols"
    )
    assert not missing
    recorded = pd.read_csv(ROOT / "protocols/comparisons.csv")
    pd.testing.assert_frame_equal(table, recorded, check_dtype=False, atol=1e-9)


def test_comparisons_name_rows_of_the_protocols():
    for one in read_comparisons(ROOT / "protocols/comparisons.yaml"):
        if one.table == UNUSUAL:
            continue  # in a benchmark's record, and so held by its reading
        protocol = yaml.safe_load((ROOT / "protocols" / one.table / "protocol.yaml").read_text())
        assert one.setting in protocol["settings"]
        assert {one.row, one.other} <= {*protocol["rows"], "Weak"}
