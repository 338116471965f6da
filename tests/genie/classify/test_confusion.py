import pandas as pd
import pytest

from genie.classify.confusion import (
    STRATEGIES,
    boundary_pairs,
    confusion,
    rank_sources,
    source_classes,
)

PREDICTIONS = pd.DataFrame(
    [
        ("a", "a", 0.6), ("a", "b", 0.1), ("a", "c", 0.3),
        ("a", "a", 0.2), ("a", "b", 0.3), ("a", "c", 0.5),
        ("b", "a", 0.5), ("b", "b", 0.0), ("b", "c", 0.5),
        ("c", "a", 0.0), ("c", "b", 0.9), ("c", "c", 0.1),
    ],
    columns=["label", "predicted", "probability"],
)  # fmt: skip


def test_confusion_is_the_mean_probability_per_true_class():
    matrix = confusion(PREDICTIONS)
    assert matrix.loc["a"].to_dict() == pytest.approx({"a": 0.4, "b": 0.2, "c": 0.4})


def ranked(strategy: str, *, top_k: int = 2, seed: int = 0) -> dict[str, list[str]]:
    table = source_classes(confusion(PREDICTIONS), strategy=strategy, top_k=top_k, seed=seed)
    return {t: list(own.sort_values("rank")["source"]) for t, own in table.groupby("target")}


def test_sources_are_the_classes_most_confused_with_the_target_with_ties_by_name():
    assert ranked("confusion") == {"a": ["c", "b"], "b": ["a", "c"], "c": ["b", "a"]}


def test_distant_sources_are_the_least_confused():
    assert ranked("distant", top_k=1) == {"a": ["b"], "b": ["a"], "c": ["a"]}


def test_boundary_pairs_are_the_most_confused_each_once():
    assert boundary_pairs(confusion(PREDICTIONS)) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert boundary_pairs(confusion(PREDICTIONS) * 0) == []
    mutual = confusion(PREDICTIONS[PREDICTIONS["label"] != "b"])
    assert boundary_pairs(mutual) == [("a", "c"), ("b", "c")]


def test_top_k_keeps_the_most_confused():
    assert ranked("confusion", top_k=1) == {"a": ["c"], "b": ["a"], "c": ["b"]}


def test_all_is_every_other_class_for_any_top_k():
    assert ranked("all", top_k=1)["a"] == ["b", "c"]


def test_random_sources_depend_on_seed_and_never_include_the_target():
    draws = [ranked("random", top_k=1, seed=s) for s in range(20)]
    assert all(target not in sources for d in draws for target, sources in d.items())
    assert len({tuple(d["a"]) for d in draws}) == 2
    assert draws[3] == ranked("random", top_k=1, seed=3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_sources_are_ranked_from_one_and_never_the_target(strategy):
    table = source_classes(confusion(PREDICTIONS), strategy=strategy, top_k=9, seed=0)
    assert list(table["target"]) == list("aabbcc")
    assert list(table["rank"]) == [1, 2] * 3
    for target, own in table.groupby("target"):
        assert sorted(own["source"]) == sorted(set("abc") - {target})


def test_custom_strategy_is_one_dictionary_entry(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "last", lambda target, shares, top_k, seed: [max(shares)])
    assert ranked("last") == {"a": ["c"], "b": ["c"], "c": ["b"]}


def test_sources_of_a_task_are_ranked_by_its_confusion():
    table = PREDICTIONS.assign(image_id=list("iiijjjkkklll"))
    matrix, sources = rank_sources(table, strategy="confusion", top_k=2, seed=0)
    pd.testing.assert_frame_equal(matrix, confusion(PREDICTIONS))
    expected = source_classes(matrix, strategy="confusion", top_k=2, seed=0)
    pd.testing.assert_frame_equal(sources, expected)


def test_random_sources_of_a_task_are_keyed_by_its_support_set():
    def ranked(names: str, *, order: int = 1, seed: int = 0) -> list[str]:
        table = PREDICTIONS.assign(image_id=list(names))[::order]
        _, sources = rank_sources(table, strategy="random", top_k=2, seed=seed)
        return list(sources["source"])

    assert ranked("iiijjjkkklll") == ranked("iiijjjkkklll", order=-1)
    assert len({tuple(ranked(f"{n * 3}jjjkkklll")) for n in "abcdefgh"}) > 1
    assert len({tuple(ranked("iiijjjkkklll", seed=seed)) for seed in range(8)}) > 1
