import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from sklearn.svm import LinearSVC

from genie.classify.examples import Examples
from genie.core.tables import UNCLEAR
from genie.measure.analysis import (
    ADA,
    between_classes,
    boundary_probabilities,
    by_level,
    by_ratio,
    choices,
    confusion_change,
    failures,
    mean_overlap,
    plane,
    single_trajectories,
    spread_out,
)
from genie.measure.metrics import overlap_coefficient

CLASSES = ("a", "b", "c")


def support() -> Examples:
    random = np.random.default_rng(0)
    z = np.repeat(np.eye(3, 6), 4, axis=0) + 0.2 * random.normal(size=(12, 6))
    return Examples([], z.astype(np.float32), [c for c in CLASSES for _ in range(4)])


def trajectories(levels: int = 3) -> pd.DataFrame:
    random = np.random.default_rng(1)
    return pd.DataFrame(
        [
            {
                "task": 0,
                "source_label": s,
                "target_label": t,
                "source_id": f"image of {s}",
                "replicate": 0,
                "level": m,
                "key": f"{s} to {t} at {m}",
                "r": 0.5 + 0.1 * m,
                "position": 0.3 * m,
                "chosen": m == 1,
                "predicted_target": m > 0,
                "embedding": random.normal(size=6).astype(np.float32),
            }
            for s in CLASSES
            for t in CLASSES
            if s != t
            for m in range(levels)
        ]
    )


def test_probabilities_are_the_softmax_of_an_svms_margins():
    examples, table = support(), trajectories()
    found = boundary_probabilities(table, {0: examples}, seed=0)
    svm = LinearSVC(C=1.0, random_state=0, max_iter=10_000)
    svm.fit(examples.embeddings, examples.labels)
    for row in found.itertuples():
        margins = np.exp(svm.decision_function([row.embedding])[0])
        shares = dict(zip(svm.classes_, margins / margins.sum(), strict=True))
        assert row.p_source == pytest.approx(shares[row.source_label], abs=1e-5)
        assert row.p_target == pytest.approx(shares[row.target_label], abs=1e-5)


def test_levels_are_averaged_and_the_chosen_images_are_a_row_of_their_own():
    found = boundary_probabilities(trajectories(), {0: support()}, seed=0)
    table = by_level(found).set_index("level")
    assert list(table.index) == ["r = 0.5", "r = 0.6", "r = 0.7", ADA]
    assert table["images"].tolist() == [6, 6, 6, 6]
    assert table.loc[ADA].tolist() == table.loc["r = 0.6"].tolist()
    assert table.loc["r = 0.5", "predicted_target"] == 0
    means = found[found["r"] == 0.5]["p_source"].mean()
    assert table.loc["r = 0.5", "p_source"] == pytest.approx(means, abs=1e-6)


def test_images_without_a_source_of_another_class_have_no_boundary():
    own = trajectories().assign(source_label="a", target_label="a")
    text = trajectories().assign(source_label=None, source_id=None)
    for table in (own, text, trajectories().iloc[:0]):
        found = boundary_probabilities(table, {0: support()}, seed=0)
        assert by_level(found).empty


def test_confusion_before_and_after_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    labels = np.repeat(CLASSES, (5, 9, 7))
    predicted = [random.choice(CLASSES, len(labels)) for _ in range(2)]
    tables = [pd.DataFrame({"label": labels, "predicted": one}) for one in predicted]
    found = confusion_change(*tables)
    assert list(found["label"]) == [a for a in CLASSES for _ in CLASSES]
    assert list(found["predicted"]) == list(CLASSES) * 3
    for column, one in zip(("before", "after"), predicted, strict=True):
        theirs = confusion_matrix(labels, one, labels=CLASSES, normalize="true")
        assert found[column].to_numpy() == pytest.approx(theirs.ravel())


def test_class_without_queries_has_no_row_in_the_confusion_but_may_be_predicted():
    table = pd.DataFrame({"label": ["a", "a"], "predicted": ["a", "b"]})
    found = confusion_change(table, table)
    assert found.values.tolist() == [["a", "a", 0.5, 0.5], ["a", "b", 0.5, 0.5]]


def test_plane_is_that_of_principal_components():
    vectors = np.random.default_rng(0).normal(size=(9, 5))
    theirs = PCA(2, svd_solver="full").fit_transform(vectors)
    assert np.abs(plane(vectors)) == pytest.approx(np.abs(theirs))


def test_trajectories_are_identified_by_task_target_source_and_replicate():
    table = trajectories()
    mixed = pd.concat([table, table.assign(replicate=1), table.assign(task=1)])
    shuffled = mixed.sample(frac=1, random_state=0)
    found = single_trajectories(shuffled)
    assert len(found) == 18
    for own in found:
        assert list(own["level"]) == [0, 1, 2]
        assert own["embedding"].map(tuple).nunique() == 3
        assert own["source_label"].nunique() == own["target_label"].nunique() == 1


def test_trajectory_without_a_source_is_one_too():
    text = trajectories().assign(source_id=None, source_label=None, replicate=range(18))
    assert [len(own) for own in single_trajectories(text)] == [1] * 18


def test_trajectories_are_spread_over_all_that_have_a_choice():
    found = spread_out(trajectories(), 3)
    assert [list(p["level"]) for p in found] == [[0, 1, 2]] * 3
    assert len({(p["source_label"].iloc[0], p["target_label"].iloc[0]) for p in found}) == 3
    assert len(spread_out(trajectories(), 100)) == 6
    rejected = trajectories().assign(chosen=lambda t: t["chosen"] & (t["target_label"] == "a"))
    assert {p["target_label"].iloc[0] for p in spread_out(rejected, 100)} == {"a"}
    assert spread_out(trajectories().iloc[:0], 3) == []


def test_rows_are_grouped_by_ratio_and_by_choice_if_there_are_several():
    titles = [title for title, _ in by_ratio(trajectories())]
    assert titles == ["r = 0.5", "r = 0.6", "r = 0.7", ADA]
    assert [title for title, _ in by_ratio(trajectories(levels=1))] == ["r = 0.5"]
    for title, rows in by_ratio(trajectories()):
        assert len(rows) == 6, title


def test_only_images_with_a_source_of_another_class_lie_between_classes():
    table = trajectories().head(6)
    table.loc[0, "source_label"] = None
    table.loc[1, "source_label"] = table.loc[1, "target_label"]
    assert list(between_classes(table).index) == [2, 3, 4, 5]


def test_choices_count_what_was_chosen_and_what_was_unclear():
    table = trajectories().assign(shift_ratio=[UNCLEAR - 0.01] * 9 + [3.0] * 9)
    kept = table.loc[table["chosen"], "key"].drop_duplicates()
    verdicts = pd.DataFrame({"key": kept, "consistent": [i % 2 == 0 for i in range(len(kept))]})
    found = choices(table, verdicts).set_index("r")
    assert list(found.index) == ["0.6", "all"]
    assert found.loc["0.6", "images"] == 6
    assert found.loc["all", "unclear"] == 0.5
    assert found.loc["all", "shift_ratio"] == pytest.approx((UNCLEAR - 0.01 + 3) / 2)
    assert found.loc["all", "label_consistency"] == 0.5
    unclear = choices(table.assign(shift_ratio=UNCLEAR - 0.01), verdicts).set_index("r")
    assert unclear.loc["all", "unclear"] == 1
    clear = choices(table.assign(shift_ratio=UNCLEAR), verdicts).set_index("r")
    assert clear.loc["all", "unclear"] == 0
    assert choices(table, verdicts.iloc[:0])["label_consistency"].isna().all()
    assert choices(table.assign(shift_ratio=np.nan), verdicts).empty


def test_failures_are_images_with_another_verdict_the_surest_first():
    members = pd.DataFrame({"key": ["a", "b", "b", "c", "d"], "label": "coat"})
    verdicts = pd.DataFrame(
        {
            "key": ["a", "b", "c", "d"],
            "verdict": ["coat", "bag", "bag", "bag"],
            "probability": [0.9, 0.6, 0.8, 0.5],
            "consistent": [True, False, False, False],
        }
    )
    assert list(failures(members, verdicts, 2)["key"]) == ["c", "b"]


def test_without_sources_of_another_class_tables_are_empty():
    own = pd.DataFrame({"source_label": ["a", None], "target_label": ["a", "b"], "task": 0})
    table = boundary_probabilities(own, {0: support()}, seed=0)
    assert list(table[table["chosen"]]["r"]) == []
    assert by_level(table).empty


def test_overlap_is_averaged_over_tasks_and_not_over_pooled_images():
    """Two tasks whose densities are apart, each at another place: pooled, they would overlap."""
    rows = {
        "task": [0, 0, 1, 1],
        "p_source": [0.1, 0.1, 0.9, 0.9],
        "p_target": [0.9, 0.9, 0.1, 0.1],
    }
    assert overlap_coefficient(rows["p_source"], rows["p_target"]) == 1
    assert mean_overlap(pd.DataFrame(rows)) == 0
    same = pd.DataFrame(rows).assign(p_target=[0.1, 0.1, 0.1, 0.1])
    assert mean_overlap(same) == 0.5
