import numpy as np
import pandas as pd
import pytest
from scipy import stats

from genie.core.errors import InvalidValueError
from genie.core.tables import COMPARISON, SCORES
from genie.measure.comparison import (
    ROWS,
    PipelineRun,
    compare_pairs,
    compare_rows,
    compare_runs,
    varying,
    with_holm,
)


def run_of(
    name: str,
    with_generated: list[float],
    *,
    seed: int = 0,
    ids: list[str] | None = None,
    seconds: float | None = None,
    **params: object,
) -> PipelineRun:
    """A run whose baseline has accuracy 0.5; tasks have ids of the seed unless others are given."""
    count = len(with_generated)
    rows = [
        {
            "task": task,
            "task_id": (ids or [f"{seed}-{i}" for i in range(count)])[task],
            "model": model,
            "accuracy": with_generated[task] if model == "augmented" else 0.5,
            "queries": 10,
        }
        for task in range(count)
        for model in ("augmented", "baseline")
    ]
    scores = pd.DataFrame(rows).reindex(columns=list(SCORES))
    values = {"seed": seed, "data.shots": 5} | {k.replace("__", "."): v for k, v in params.items()}
    return PipelineRun((name,), values, scores, images=10, guided_steps=100, seconds=seconds)


def compared(*runs: PipelineRun, reference: int = 0) -> pd.DataFrame:
    table, notes = compare_runs(runs, reference)
    assert notes == []
    return table


def noted(*runs: PipelineRun) -> str:
    (note,) = compare_runs(runs, 0)[1]
    return note


A, B = [0.6, 0.7, 0.65, 0.62], [0.65, 0.71, 0.7, 0.6]


def test_one_row_per_run_has_the_columns_of_the_schema_and_text_of_what_varies():
    table = compared(run_of("one", A, noise__r=0.5), run_of("two", B, noise__r="ada", seconds=2.5))
    assert list(table.columns) == list(COMPARISON)
    assert table["row"].tolist() == ["one", "two"]
    assert table["parameters"].tolist() == ["noise.r=0.5", "noise.r=ada"]
    assert table["over"].tolist() == ["tasks"] * 2
    assert table["seconds"].fillna(-1).tolist() == [-1, 2.5]
    assert table["guided_steps"].tolist() == [100, 100]


def test_interval_of_two_tasks_near_the_top_ends_at_one():
    assert compared(run_of("a", [0.9, 1.0])).loc[0, "high"] == 1


def test_difference_is_that_of_a_paired_t_test_and_the_reference_has_none():
    table = compared(run_of("one", A), run_of("two", B, noise__r=1), reference=1).set_index("row")
    expected = stats.ttest_rel(A, B)
    low, high = expected.confidence_interval(0.95)
    row = table.loc["one"]
    assert row["to_reference"] == pytest.approx(np.mean(A) - np.mean(B), abs=1e-6)
    bounds = row["to_reference_low"], row["to_reference_high"]
    assert bounds == pytest.approx((low, high), abs=1e-6)
    assert row["p"] == pytest.approx(expected.pvalue)
    assert table.loc["two", ["to_reference", "p", "p_holm"]].isna().all()
    assert table["pairs"].tolist() == [4, 0]


def test_tasks_are_paired_by_what_they_are_and_not_by_their_number():
    turned = run_of("two", B[::-1], ids=["0-3", "0-2", "0-1", "0-0"], noise__r=1)
    plain = run_of("two", B, noise__r=1)
    first = run_of("one", A)
    pd.testing.assert_frame_equal(compared(first, turned), compared(first, plain))


def test_equal_tasks_of_one_run_are_paired_one_by_one():
    same = ["a", "a", "a", "b"]
    table = compared(run_of("one", A, ids=same), run_of("two", B, ids=same, noise__r=1))
    assert table.loc[1, "pairs"] == 4
    assert table.loc[1, "p"] == pytest.approx(stats.ttest_rel(A, B).pvalue)


def test_runs_without_common_tasks_are_not_paired_and_a_note_has_the_reason():
    other = run_of("two", B, ids=list("abcd"), data__shots=3, noise__r=1)
    table, notes = compare_runs([run_of("one", A), other], 0)
    assert table.loc[1, ["to_reference", "p", "p_holm"]].isna().all()
    assert table.loc[1, "accuracy"] == pytest.approx(np.mean(B))
    assert notes == [
        "not paired with one, because tasks differ (data.shots is 3, not 5): two",
    ]


def test_rows_of_one_reason_share_a_note():
    others = [run_of(n, B, ids=list("abcd"), noise__r=n) for n in ("two", "three")]
    assert noted(run_of("one", A), *others).endswith("(other images or code): two; three")


def test_only_common_tasks_are_paired_and_a_note_counts_them():
    more = run_of("two", [*B, 0.9, 0.9], noise__r=1, data__tasks=6)
    table, notes = compare_runs([run_of("one", A, data__tasks=4), more], 0)
    assert (table.loc[1, "n"], table.loc[1, "pairs"]) == (6, 4)
    assert table.loc[1, "p"] == pytest.approx(stats.ttest_rel(A, B).pvalue)
    assert notes == [
        "paired with one on 4 of 6 tasks, because tasks differ (data.tasks is 6, not 4): two"
    ]


def test_scores_of_earlier_versions_are_not_paired():
    old = run_of("old", B, ids=[""] * 4, noise__r=1)
    assert "earlier version does not identify tasks: old" in noted(run_of("one", A), old)
    assert "not paired with old, whose metrics/tasks.csv" in noted(old, run_of("one", A))


def test_another_seed_is_compared_with_the_run_of_that_seed_in_the_references_setting():
    runs = [
        run_of(f"{name}{seed}", [v + 0.01 * seed for v in values], seed=seed, noise__r=name)
        for name, values in (("a", A), ("b", B))
        for seed in (0, 1)
    ]
    table = compared(*runs)
    tasks = table[table["over"] == "tasks"].set_index("row")
    assert tasks.loc[["a0", "a1"], "to_reference"].isna().all()
    assert tasks.loc["b1", "to_reference"] == pytest.approx(np.mean(B) - np.mean(A), abs=1e-6)
    assert tasks.loc["b1", "pairs"] == 4


def test_a_seed_that_the_reference_lacks_is_named():
    runs = [run_of("a0", A), run_of("b0", B, noise__r=1), run_of("b1", B, noise__r=1, seed=1)]
    table, notes = compare_runs(runs, 0)
    assert notes == ["not paired with a0, because tasks differ (seed is 1, not 0): b1"]
    seeds = table[table["over"] == "seeds"].set_index("row")
    assert seeds["n"].to_dict() == {"a0": 1, "b0, b1": 2}
    assert seeds["pairs"].to_dict() == {"a0": 0, "b0, b1": 1}
    assert seeds["p"].isna().all()


def test_a_setting_with_one_seed_twice_is_not_averaged():
    runs = [run_of("a0", A), run_of("again", B), run_of("a1", A, seed=1), run_of("b", B, x=1)]
    table, notes = compare_runs(runs, 0)
    assert set(table["over"]) == {"tasks"}
    assert notes == []  # there is nothing to average
    table, notes = compare_runs([*runs, run_of("b1", B, x=1, seed=1)], 3)
    assert table.loc[table["over"] == "seeds", "row"].tolist() == ["b, b1"]
    assert any(note.endswith("(other code or data): a0 and again") for note in notes)


def test_other_code_under_the_same_parameters_is_compared_with_the_reference():
    table = compared(run_of("before", A), run_of("after", B))
    assert table["pairs"].tolist() == [0, 4]
    assert table.loc[1, "p"] == pytest.approx(stats.ttest_rel(B, A).pvalue)
    assert set(table["over"]) == {"tasks"}


def test_seeds_that_do_not_change_the_tasks_are_paired_seed_by_seed():
    same = list("abcd")
    runs = [
        run_of(f"{name}{seed}", [v + seed / 10 for v in values], seed=seed, ids=same, x=name)
        for name, values in (("a", A), ("b", B))
        for seed in (0, 1)
    ]
    table = compared(*runs)
    tasks = table[table["over"] == "tasks"].set_index("row")
    assert tasks["pairs"].to_dict() == {"a0": 0, "a1": 0, "b0": 4, "b1": 4}
    assert tasks.loc["b1", "to_reference"] == pytest.approx(np.mean(B) - np.mean(A), abs=1e-6)


def test_one_run_alone_is_a_table_without_differences():
    table = compared(run_of("one", A))
    assert len(table) == 1
    assert table["parameters"].tolist() == [""]
    assert table.loc[0, "gain"] == pytest.approx(np.mean(A) - 0.5)


def test_parameters_that_vary_are_found_where_a_run_lacks_one():
    assert varying([run_of("a", A, x=1, y=2), run_of("b", B, x=1, seed=3)]) == ["y"]


RATIOS, SEEDS = (0.5, 0.6, 0.7, 0.8, "ada"), range(5)


def grid() -> dict[tuple[object, int], np.ndarray]:
    """Accuracies of seven tasks for each ratio and seed; the tasks of a seed are the same."""
    random = np.random.default_rng(0)
    difficulty = {seed: random.normal(0.6, 0.05, 7) for seed in SEEDS}
    return {
        (ratio, seed): (difficulty[seed] + 0.02 * i + random.normal(0, 0.02, 7)).round(6)
        for i, ratio in enumerate(RATIOS)
        for seed in SEEDS
    }


def by_hand_holm(p: list[float]) -> list[float]:
    """Holm 1979: the k-th smallest of m is multiplied by m - k + 1, and none is below the last."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, p[i] * (len(p) - rank)))
        corrected[i] = largest
    return corrected


def test_five_ratios_by_five_seeds_agree_with_scipy():
    values = grid()
    runs = [
        run_of(f"{ratio}/{seed}", list(accuracies), seed=seed, noise__r=ratio)
        for (ratio, seed), accuracies in values.items()
    ]
    table = compared(*runs, reference=runs.index(next(r for r in runs if r.name == "ada/0")))
    tasks = table[table["over"] == "tasks"].set_index("row")
    for (ratio, seed), own in values.items():
        row = tasks.loc[f"{ratio}/{seed}"]
        low, high = stats.t.interval(0.95, 6, own.mean(), stats.sem(own))
        assert (row["accuracy"], row["low"], row["high"]) == pytest.approx(
            (own.mean(), low, high), abs=1e-6
        )
        if ratio != "ada":
            paired = stats.ttest_rel(own, values[("ada", seed)])
            assert row["p"] == pytest.approx(paired.pvalue)
    others = [key for key in values if key[0] != "ada"]
    p = [stats.ttest_rel(values[k], values[("ada", k[1])]).pvalue for k in others]
    found = [tasks.loc[f"{ratio}/{seed}", "p_holm"] for ratio, seed in others]
    assert found == pytest.approx(by_hand_holm(p))

    seeds = table[table["over"] == "seeds"].set_index("parameters")
    means = {r: np.array([values[(r, s)].mean() for s in SEEDS]) for r in RATIOS}
    for ratio, own in means.items():
        row = seeds.loc[f"noise.r={ratio}"]
        low, high = stats.t.interval(0.95, 4, own.mean(), stats.sem(own))
        assert (row["accuracy"], row["low"], row["high"]) == pytest.approx(
            (own.mean(), low, high), abs=1e-6
        )
        assert (row["n"], row["seed"]) == (5, "0, 1, 2, 3, 4")
    p = [stats.ttest_rel(means[r], means["ada"]).pvalue for r in RATIOS[:-1]]
    found = [seeds.loc[f"noise.r={r}", "p_holm"] for r in RATIOS[:-1]]
    assert found == pytest.approx(by_hand_holm(p))


def row_scores(**rows: list[float]) -> pd.DataFrame:
    """Scores of rows over tasks; `boundary` is half the accuracy, and missing for the first row."""
    table = pd.DataFrame(
        [
            {"row": row, "task": task, "accuracy": value}
            for row, values in rows.items()
            for task, value in enumerate(values)
        ]
    )
    first = table["row"] == next(iter(rows))
    return table.assign(boundary=(table["accuracy"] / 2).mask(first))


def test_rows_are_compared_with_the_baseline_and_the_reference_on_the_same_tasks():
    weak, base = [0.5, 0.55, 0.6, 0.52], A
    scores = row_scores(Weak=weak, A=base, B=B)
    table = compare_rows(
        scores, ["Weak", "A", "B"], baseline="Weak", reference="A", shared=0
    ).set_index("row")
    assert list(table.columns) == [*ROWS, "boundary"]
    for row, values in (("A", base), ("B", B)):
        gain = stats.ttest_rel(values, weak)
        low, high = gain.confidence_interval(0.95)
        assert table.loc[row, "gain"] == pytest.approx(np.mean(values) - np.mean(weak), abs=1e-6)
        assert tuple(table.loc[row, ["gain_low", "gain_high"]]) == pytest.approx(
            (low, high), abs=1e-6
        )
        assert table.loc[row, "boundary"] == pytest.approx(np.mean(values) / 2, abs=1e-6)
    assert table.loc["B", "to_reference"] == pytest.approx(np.mean(B) - np.mean(base), abs=1e-6)
    assert tuple(table.loc["A", ["to_reference", "n"]]) == (0, 4)


def test_pairs_of_rows_are_paired_t_tests_on_a_share():
    scores = row_scores(Weak=[0.5, 0.55, 0.6, 0.52], A=A, B=B)
    pairs = [["B", "A"], ["A", "B", "boundary"]]
    over_accuracy, over_boundary = compare_pairs(scores, pairs, shared=0)
    assert over_accuracy["p"] == pytest.approx(stats.ttest_rel(B, A).pvalue)
    assert over_boundary["difference"] == pytest.approx(-over_accuracy["difference"] / 2, abs=1e-6)
    assert [line["share"] for line in (over_accuracy, over_boundary)] == ["accuracy", "boundary"]
    with pytest.raises(InvalidValueError, match="row must be one of Weak, A, B, got 'C'"):
        compare_pairs(scores, [["C", "A"]], shared=0)
    with pytest.raises(InvalidValueError, match="share must be one of accuracy, boundary"):
        compare_pairs(scores, [["A", "B", "few"]], shared=0)


def test_shared_support_images_widen_the_interval_of_a_difference_and_raise_its_p():
    plain, wide = (compare_pairs(row_scores(A=A, B=B), [["B", "A"]], shared=s)[0] for s in (0, 0.2))
    ratio = (wide["high"] - wide["low"]) / (plain["high"] - plain["low"])  # type: ignore[operator]
    assert ratio == pytest.approx(np.sqrt((1 / 4 + 0.2 / 0.8) * 4), rel=1e-4)
    assert wide["p"] > plain["p"]  # type: ignore[operator]


def test_holm_corrects_over_the_rows_that_have_a_p_value():
    table = with_holm(pd.DataFrame({"p": [0.01, None, 0.04]}))
    assert table["p_holm"].fillna(-1).tolist() == pytest.approx([0.02, -1, 0.04])


def test_splits_of_the_same_images_have_the_wider_intervals_of_nadeau_and_bengio():
    everything = {"data__regime": "all", "data__query_fraction": 0.3}
    table = compared(run_of("a", A, **everything), run_of("b", B, **everything, method="genie"))
    gap = np.subtract(B, A)
    # the variance is that of one split times (1/4 + 3/7)
    half = stats.t.ppf(0.975, 3) * np.sqrt((1 / 4 + 3 / 7) * gap.var(ddof=1))
    assert table.loc[1, "to_reference_high"] == pytest.approx(gap.mean() + half, abs=1e-6)
    t = abs(gap.mean()) / np.sqrt((1 / 4 + 3 / 7) * gap.var(ddof=1))
    assert table.loc[1, "p"] == pytest.approx(2 * stats.t.sf(t, 3))


@pytest.mark.parametrize(("ids", "factor"), [(None, 1 / 2 + 3 / 7), (["test"], 1 / 2)])
def test_seeds_share_images_unless_the_data_have_a_test_split(ids, factor):
    everything = {"data__regime": "all", "data__query_fraction": 0.3, "ids": ids}
    runs = [
        run_of(f"{s}", [accuracy], seed=s, **everything) for s, accuracy in ((0, 0.6), (1, 0.61))
    ]
    (row,) = compared(*runs).query("over == 'seeds'").to_dict("records")
    half = stats.t.ppf(0.975, 1) * np.sqrt(factor * np.var([0.6, 0.61], ddof=1))
    assert row["high"] - row["accuracy"] == pytest.approx(half, abs=1e-5)
