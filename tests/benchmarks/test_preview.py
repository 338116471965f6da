from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks.preview import Case, agreement, cases_of, main, pairs_of_set
from genie.plan.levels import Levels

RECORDED = Path(__file__).parents[2] / "benchmarks/preview.csv"


def test_pairs_are_those_of_the_set_at_all_levels(augmented, source_images):
    pairs = pairs_of_set(augmented)
    assert len(pairs.slots) == 2
    for slot in pairs.slots:
        assert tuple(request.r for request in slot.levels) == Levels(0.5, 0.9, 5).ratios
        assert {request.target_label for request in slot.levels} == {"coat"}
        assert {request.prompt for request in slot.levels} == {"a photo of a coat"}
    assert pairs.sources == source_images


def test_previews_and_bfloat16_are_compared_with_the_exact_search(augmented, tiny_sd_folder):
    out = augmented / "preview.csv"
    options = {"--generator": tiny_sd_folder, "--root": augmented, "--out": out, "--full": 4}
    arguments = [str(part) for pair in options.items() for part in pair]
    arguments += ["--steps", "2", "--unclear", "1", "--unclear", "1e9"]
    result = CliRunner(env={"DVC_ROOT": str(augmented)}).invoke(
        main, arguments, catch_exceptions=False
    )
    assert result.exit_code == 0
    table = pd.read_csv(out)
    assert list(table.columns) == list(pd.read_csv(RECORDED).columns)
    never, always, half, half_in_full = table.to_dict("records")
    assert (never["settled_in_full"], always["settled_in_full"]) == (0, 1)
    # previews of 1 + 1 + 1 + 2 + 2 steps, then one level of 2 to 4, or at least three levels
    assert 7 + 2 <= never["guided_steps"] <= 7 + 4
    assert always["guided_steps"] >= 7 + 2 + 2 + 3
    assert set(table["exact_steps"]) == {2 + 2 + 3 + 3 + 4}
    assert (half["dtype"], half_in_full["dtype"]) == ("bfloat16", "bfloat16")
    assert half_in_full["guided_steps"] == half_in_full["exact_steps"]
    assert (table["same"] <= table["within_one_level"]).all()


def test_agreement_counts_equal_and_neighbouring_levels():
    found = agreement([1, 2, 4, 3], [1, 3, 2, 3], guided=60, full_steps=50)
    assert found == {
        "same": 0.5,
        "within_one_level": 0.75,
        "guided_steps": 60,
        "times_fixed": 1.5,  # r = 0.8 takes 40 of 50 steps
    }


@pytest.mark.parametrize(
    ("full", "steps", "unclear", "last"),
    [((50, 20), (6, 10), (1, 1.1), [(20, 10), (20, 20)]), ((8,), (4,), (1,), [(8, 4), (8, 8)])],
)
def test_bfloat16_is_compared_by_the_fewest_full_steps(full, steps, unclear, last):
    *plain, previews, in_full = cases_of(full, steps, unclear)
    assert len(plain) == len(full) * len(steps) * len(unclear)
    assert [previews, in_full] == [Case(*numbers, 1, "bfloat16") for numbers in last]
