from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from scipy import stats

from genie.errors import GenieError
from genie.measure.metrics import interval
from protocols.claims import UNUSUAL, Claim, compared, judged, main, read_claims

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


def test_claims_are_paired_t_tests_and_one_family(root):
    pairs = [("B", "A"), ("C", "A"), ("A", "B")]
    table, missing = judged([Claim("t", "one", *pair) for pair in pairs], root)
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


def test_claim_without_a_record_is_named_and_no_part_of_the_family(root):
    claims = [Claim("t", "one", "B", "A"), Claim("t", "one", "D", "A"), Claim("u", "one", "A", "B")]
    table, missing = judged(claims, root)
    assert (len(table), missing) == (1, claims[1:])
    assert table["p_holm"][0] == pytest.approx(table["p"][0])


def test_what_a_row_is_compared_with_has_its_size_and_p_where_clear(root):
    pairs = [Claim("t", "one", *pair) for pair in ("BA", "AB", "CA")]
    table, _ = judged(pairs, root)
    above, below, unclear = map(compared, table.to_dict("records"))
    gap, half = 100 * table["difference"], 50 * (table["high"] - table["low"])
    assert above == f"A (+{gap[0]:.1f} ± {half[0]:.1f}, p < 0.001)"
    assert below == f"B ({gap[1]:.1f} ± {half[1]:.1f}, p < 0.001)"
    assert unclear == f"A ({gap[2]:+.1f} ± {half[2]:.1f})"


def test_claim_on_a_group_of_queries_has_the_p_of_its_interval(root):
    """`benchmarks/unusual.csv` holds intervals; the p of the t-test follows from them."""
    wide = pd.read_csv(root / "t/tasks.csv").pivot(index="task", columns="row", values="accuracy")
    gap = interval(wide["B"] - wide["A"])
    record = {"setting": "s", "method": "B", "group": "counter", "to_txt2img": gap.mean}
    record |= {"to_txt2img_low": gap.low, "to_txt2img_high": gap.high, "n": gap.n}
    (root / "benchmarks").mkdir()
    pd.DataFrame([record]).to_csv(root / "benchmarks/unusual.csv", index=False)
    claims = [Claim("unusual", "s", "B", "Txt2Img", share) for share in ("counter", "aligned")]
    table, missing = judged(claims, root / "protocols")
    assert missing == claims[1:]
    expected = stats.ttest_rel(wide["B"], wide["A"]).pvalue
    assert table["p"][0] == pytest.approx(expected, rel=1e-3)


def test_command_writes_the_table(root):
    (root / "claims.yaml").write_text(yaml.safe_dump({"t": {"one": [["B", "A"], ["D", "A"]]}}))
    done = CliRunner().invoke(main, ["--protocols", str(root)])
    assert done.exit_code == 0, done.output
    assert "1 claims in one family" in done.output
    assert "1 claims are not recorded yet, of t (one)" in done.output
    assert pd.read_csv(root / "claims.csv")["row"].tolist() == ["B"]


def test_claim_of_another_form_is_named(root):
    (root / "claims.yaml").write_text(yaml.safe_dump({"t": {"one": [["B"]]}}))
    with pytest.raises(GenieError, match=r"t, one: a claim must be .*, got \['B'\]"):
        read_claims(root / "claims.yaml")


def test_committed_claims_follow_from_the_committed_tables():
    table, missing = judged(read_claims(ROOT / "protocols/claims.yaml"), ROOT / "protocols")
    assert not missing
    recorded = pd.read_csv(ROOT / "protocols/claims.csv")
    pd.testing.assert_frame_equal(table, recorded, check_dtype=False, atol=1e-9)


def test_claims_name_rows_of_the_protocols():
    for claim in read_claims(ROOT / "protocols/claims.yaml"):
        if claim.table == UNUSUAL:
            continue  # in a benchmark's record, and so held by its reading
        protocol = yaml.safe_load((ROOT / "protocols" / claim.table / "protocol.yaml").read_text())
        assert claim.setting in protocol["settings"]
        assert {claim.row, claim.other} <= {*protocol["rows"], "Weak"}
