import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genie.core.errors import InvalidValueError
from genie.data.tasks import (
    REGIMES,
    Draws,
    generated_per_class,
    leaks,
    make_tasks,
    shot_group,
    shot_groups,
    task_ids,
)

CALL = {
    "all": {},
    "shots": {"shots": 3, "tasks": 3},
    "longtail": {"imbalance": 4.0, "tasks": 2},
    "episodes": {"n_way": 2, "shots": 2, "n_query": 3, "tasks": 5},
}


def pool_of(name: str, counts: dict[str, int]) -> pd.DataFrame:
    rows = [(f"{name}-{label}-{i}", label, b"") for label, n in counts.items() for i in range(n)]
    return pd.DataFrame(rows, columns=["image_id", "label", "png"])


def tasks_of(support: pd.DataFrame, query: pd.DataFrame, **draws) -> pd.DataFrame:
    return make_tasks(support, query, Draws(**draws))


def pools(classes: int = 4, support: int = 10, query: int = 6) -> tuple[pd.DataFrame, pd.DataFrame]:
    names = [f"class {i}" for i in range(classes)]
    return pool_of("s", dict.fromkeys(names, support)), pool_of("q", dict.fromkeys(names, query))


def ids(tasks: pd.DataFrame, task: int, role: str = "support") -> set[str]:
    return set(tasks.query("task == @task and role == @role")["image_id"])


def counts(tasks: pd.DataFrame, role: str) -> pd.Series:
    return tasks[tasks["role"] == role].groupby(["task", "label"]).size()


@pytest.mark.parametrize("regime", REGIMES)
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    support=st.lists(st.integers(4, 30), min_size=3, max_size=6),
    query=st.integers(3, 9),
)
def test_support_and_query_are_disjoint_in_every_regime(regime, seed, support, query):
    classes = {f"c{i}": n for i, n in enumerate(support)}
    tasks = tasks_of(
        pool_of("s", classes),
        pool_of("q", dict.fromkeys(classes, query)),
        regime=regime,
        seed=seed,
        **CALL[regime],
    )
    assert leaks(tasks).empty
    assert tasks[tasks["role"] == "support"]["image_id"].str.startswith("s-").all()
    assert tasks[tasks["role"] == "query"]["image_id"].str.startswith("q-").all()
    assert not tasks.duplicated(["task", "image_id"]).any()


def test_a_thousand_episodes_have_exact_counts_and_no_leak():
    tasks = tasks_of(
        *pools(classes=8, support=30, query=20), regime="episodes", seed=0, tasks=1000, shots=1
    )
    assert leaks(tasks).empty
    assert tasks["task"].nunique() == 1000
    assert (tasks.groupby("task")["label"].nunique() == 5).all()
    assert (counts(tasks, "support") == 1).all()
    assert (counts(tasks, "query") == 16).all()
    assert tasks["label"].value_counts(normalize=True).between(0.11, 0.14).all()


def test_the_leaking_sampler_of_the_authors_is_caught():
    rng = np.random.default_rng(0)
    rows = []
    for task in range(50):  # support and query drawn independently from one folder
        folder = [f"image {i}" for i in range(30)]
        rows += [(task, "support", i, "c") for i in rng.choice(folder, 5, replace=False)]
        rows += [(task, "query", i, "c") for i in rng.choice(folder, 16, replace=False)]
    assert not leaks(pd.DataFrame(rows, columns=["task", "role", "image_id", "label"])).empty


def test_pools_that_share_an_image_are_refused():
    support, query = pools()
    shared = pd.concat([query, support.head(1)])
    with pytest.raises(InvalidValueError, match="1 images are in both"):
        tasks_of(support, shared, regime="all", seed=0)


def test_support_sets_with_more_shots_contain_those_with_fewer():
    few = tasks_of(*pools(), regime="shots", seed=3, shots=2, tasks=3)
    more = tasks_of(*pools(), regime="shots", seed=3, shots=5, tasks=3)
    for task in range(3):
        assert ids(few, task) < ids(more, task)
    assert (counts(more, "support") == 5).all()


def test_a_milder_long_tail_contains_a_steeper_one():
    steep = tasks_of(*pools(), regime="longtail", seed=3, imbalance=10, tasks=1)
    mild = tasks_of(*pools(), regime="longtail", seed=3, imbalance=2, tasks=1)
    assert ids(steep, 0) < ids(mild, 0)


def test_episodes_with_more_shots_contain_those_with_fewer():
    one = tasks_of(*pools(6, 30, 20), regime="episodes", seed=1, tasks=20, shots=1)
    five = tasks_of(*pools(6, 30, 20), regime="episodes", seed=1, tasks=20, shots=5)
    for task in range(20):
        assert ids(one, task) < ids(five, task)
        assert ids(one, task, "query") == ids(five, task, "query")


def test_another_task_changes_no_task_before_it():
    three = tasks_of(*pools(), regime="shots", seed=0, tasks=3)
    four = tasks_of(*pools(), regime="shots", seed=0, tasks=4)
    pd.testing.assert_frame_equal(four[four["task"] < 3], three)
    assert ids(three, 0) != ids(three, 1)


def test_another_class_changes_no_draw_of_the_others():
    four = tasks_of(*pools(4), regime="shots", seed=0)
    five = tasks_of(*pools(5), regime="shots", seed=0)
    kept = five[five["label"] != "class 4"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, four)


def test_draw_does_not_depend_on_row_order_but_on_seed():
    support, query = pools()
    one = tasks_of(support, query, regime="shots", seed=0)
    shuffled = tasks_of(support.sample(frac=1, random_state=1), query, regime="shots", seed=0)
    pd.testing.assert_frame_equal(one, shuffled)
    assert not one.equals(tasks_of(support, query, regime="shots", seed=1))


def test_long_tail_falls_exponentially_to_the_imbalance():
    support, query = pools(classes=3, support=100)
    tasks = tasks_of(support, query, regime="longtail", seed=0, imbalance=100, tasks=2)
    sizes = counts(tasks, "support")
    assert sorted(sizes[0]) == [1, 10, 100]
    assert sizes[0].equals(sizes[1])
    assert len(ids(tasks, 0, "query")) == len(query)


def test_long_tail_without_imbalance_is_one_task_with_the_class_counts_of_the_data():
    support = pool_of("s", {"a": 30, "b": 7})
    query = pool_of("q", {"a": 3, "b": 3})
    tasks = tasks_of(support, query, regime="longtail", seed=0)
    assert counts(tasks, "support")[0].to_dict() == {"a": 30, "b": 7}


def test_all_is_one_task_of_every_image():
    support, query = pools()
    tasks = tasks_of(support, query, regime="all", seed=0)
    assert ids(tasks, 0) == set(support["image_id"])
    assert ids(tasks, 0, "query") == set(query["image_id"])
    assert tasks["task"].unique().tolist() == [0]


def test_episode_support_comes_from_the_same_capped_pool_in_every_task():
    tasks = tasks_of(*pools(5, 50, 16), regime="episodes", seed=0, tasks=200, pool=4, shots=2)
    drawn = tasks[tasks["role"] == "support"].groupby("label")["image_id"].nunique()
    assert (drawn == 4).all()


def test_episodes_without_n_query_have_all_queries_of_their_classes():
    tasks = tasks_of(*pools(), regime="episodes", seed=0, n_way=2, n_query=None, tasks=3)
    assert (counts(tasks, "query") == 6).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regime": "few"}, "regime must be one of all, shots, longtail, episodes"),
        ({"regime": "shots", "shots": 11}, r"shots must be .*'class 0' has 10, got 11"),
        ({"regime": "shots", "shots": 0}, "shots must be at least 1, got 0"),
        ({"regime": "shots", "tasks": 0}, "tasks must be at least 1, got 0"),
        ({"regime": "longtail", "imbalance": 0.5}, "imbalance must be 1 or more"),
        ({"regime": "episodes", "n_way": 5}, "n_way must be from 2 to .* 4, got 5"),
        ({"regime": "episodes", "n_way": 2, "n_query": 7}, r"n_query .* has 6, got 7"),
        ({"regime": "episodes", "n_way": 2, "shots": 3, "pool": 2}, r"shots .* has 2"),
        ({"regime": "all", "seed": -1}, "seed must be 0 or more"),
    ],
)
def test_impossible_draws_name_the_argument(arguments, message):
    with pytest.raises(InvalidValueError, match=message):
        tasks_of(*pools(), **{"seed": 0, **arguments})


def test_one_class_alone_is_refused():
    support, query = (table[table["label"] == "class 0"] for table in pools())
    with pytest.raises(
        InvalidValueError, match="at least two classes to distinguish, got only class 0"
    ):
        tasks_of(support, query, regime="all", seed=0)


def test_class_without_query_images_is_named():
    with pytest.raises(InvalidValueError, match="'b' must have both"):
        tasks_of(pool_of("s", {"a": 3, "b": 3}), pool_of("q", {"a": 3}), regime="all", seed=0)


def test_groups_follow_the_papers_bounds():
    assert [shot_group(n) for n in (101, 100, 20, 19, 0)] == [
        *("many", "medium", "medium", "few", "few")
    ]
    assert shot_groups(pd.Series({"a": 500, "b": 1})).to_dict() == {"a": "many", "b": "few"}


def test_tasks_have_the_same_id_if_and_only_if_their_sets_are_the_same():
    pair = pools()
    first = tasks_of(*pair, regime="episodes", seed=0, **CALL["episodes"])
    named = task_ids(first)
    assert len(set(named.values())) == 5
    assert all(len(name) == 16 and set(name) <= set("0123456789abcdef") for name in named.values())
    shuffled = first.sample(frac=1, random_state=0).assign(task=first["task"] + 7)
    assert task_ids(shuffled) == {task + 7: name for task, name in named.items()}
    fewer = tasks_of(*pair, regime="episodes", seed=0, **CALL["episodes"] | {"tasks": 2})
    assert task_ids(fewer) == {0: named[0], 1: named[1]}


@pytest.mark.parametrize("column", ["role", "label", "image_id"])
def test_one_changed_row_changes_the_id_of_its_task_alone(column):
    tasks = tasks_of(*pools(), regime="shots", seed=0, shots=2, tasks=2)
    changed = tasks.copy()
    changed.loc[0, column] = "other"
    before, after = task_ids(tasks), task_ids(changed)
    assert before[0] != after[0]
    assert before[1] == after[1]


# Images that every method adds


LABELS = ["a"] * 3 + ["b"] * 25


def test_every_class_gets_the_same_number():
    added = generated_per_class(LABELS, per_class=4, classes="all", every_source=False)
    assert added == {"a": 4, "b": 4}


def test_few_leaves_out_classes_with_twenty_images_or_more():
    added = generated_per_class(LABELS, per_class=4, classes="few", every_source=False)
    assert added == {"a": 4}


def test_every_source_gives_one_image_per_image_of_the_other_classes():
    added = generated_per_class(LABELS, per_class=4, classes="all", every_source=True)
    assert added == {"a": 25, "b": 3}
