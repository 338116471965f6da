import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.metrics import accuracy_score, recall_score
from transformers import AutoModelForImageClassification

from genie.classify.backbone import load_backbone, load_oracle
from genie.classify.classifier import Classifier
from genie.classify.examples import Examples
from genie.core.errors import MissingFileError
from genie.core.tables import (
    CLASS_SCORES,
    MEMBERS,
    PREDICTED,
    SCORES,
    TASKS,
    VERDICTS,
    read_images,
    read_table,
)
from genie.data.images import decode_image
from genie.measure.evaluation import (
    class_table,
    evaluate,
    interval_over,
    over_queries,
    predict_queries,
    read_scored,
    score_table,
    summarise,
    verdicts,
    write_evaluation,
)
from genie.measure.metrics import Interval
from tests.genie.measure.small_run import CLASSES, write_small_run

LABELS = ("a", "b", "c")


def predictions() -> pd.DataFrame:
    """Two tasks, two models, thirty images each, right more often by the second model."""
    random = np.random.default_rng(0)
    rows = []
    for task in (0, 1):
        for model, right in (("baseline", 0.4), ("augmented", 0.8)):
            for i in range(30):
                label = LABELS[i % 3]
                predicted = label if random.random() < right else random.choice(LABELS)
                rows.append((task, model, label, predicted))
    return pd.DataFrame(rows, columns=["task", "model", "label", "predicted"])


def tasks(counts: dict[str, int]) -> pd.DataFrame:
    """The tasks table of two tasks with the same numbers of support images per class."""
    rows = [
        (task, "support", f"image {task} {label} {i}", label)
        for task in (0, 1)
        for label, n in counts.items()
        for i in range(n)
    ]
    query = [(task, "query", f"query {label}", label) for task in (0, 1) for label in counts]
    return pd.DataFrame([*rows, *query], columns=list(TASKS))


BOUNDARY = pd.DataFrame(
    [(t, m, 0.5 + 0.1 * t + 0.2 * (m == "augmented")) for t in (0, 1)
     for m in ("baseline", "augmented")],
    columns=["task", "model", "boundary"],
)  # fmt: skip


def scores() -> pd.DataFrame:
    counts = {"a": 101, "b": 20, "c": 19}
    return score_table(predictions(), tasks=tasks(counts), boundary=BOUNDARY)


def test_scores_agree_with_a_plain_loop():
    table = scores().set_index(["task", "model"])
    for (task, model), own in predictions().groupby(["task", "model"]):
        pairs = list(zip(own["label"], own["predicted"], strict=True))
        assert table.loc[(task, model), "accuracy"] == pytest.approx(
            sum(y == p for y, p in pairs) / 30, abs=1e-6
        )
        # one class in each group, so the group's accuracy is the class's
        for group, label in (("many", "a"), ("medium", "b"), ("few", "c")):
            expected = [y == p for y, p in pairs if y == label]
            assert table.loc[(task, model), group] == pytest.approx(np.mean(expected), abs=1e-6)


def test_empty_group_is_null():
    counts = {"a": 30, "b": 30, "c": 30}
    table = score_table(predictions(), tasks=tasks(counts), boundary=BOUNDARY)
    assert table["few"].isna().all()
    assert table["many"].isna().all()
    assert table["medium"].notna().all()


def accuracies(model: str) -> list[float]:
    """scikit-learn's accuracy of each task."""
    own = predictions().query("model == @model")
    return [accuracy_score(t["label"], t["predicted"]) for _, t in own.groupby("task")]


def test_summary_pairs_the_gain_by_task_as_scipys_paired_test_does():
    summary = summarise(
        scores(),
        tasks=tasks({"a": 101, "b": 20, "c": 19}),
        members=pd.DataFrame({"file_name": ["x", "y", "x"], "r": [0.5, 0.7, 0.5]}),
        verdicts=pd.DataFrame({"consistent": [True, False]}),
    )
    paired = stats.ttest_rel(accuracies("augmented"), accuracies("baseline"))
    low, high = paired.confidence_interval(0.95)
    gain = summary["gain"]
    assert (gain.low, gain.high) == pytest.approx((low, high), abs=1e-5)
    assert gain.mean == pytest.approx((low + high) / 2, abs=1e-5)
    assert gain.n == 2
    assert summary["baseline"].mean == pytest.approx(np.mean(accuracies("baseline")), abs=1e-6)
    assert summary["gain_boundary"].mean == pytest.approx(0.2)
    assert summary["gain_boundary"].n == 2
    assert summary["images"] == 2
    assert summary["mean_r"] == pytest.approx(1.7 / 3, abs=1e-6)
    assert summary["label_consistency"] == 0.5


def test_summary_without_images_measures_no_ratio_and_no_consistency():
    summary = summarise(
        scores(),
        tasks=tasks({"a": 101, "b": 20, "c": 19}),
        members=pd.DataFrame({"file_name": [], "r": []}),
        verdicts=pd.DataFrame({"consistent": []}),
    )
    assert summary["images"] == 0
    assert summary["mean_r"] is summary["label_consistency"] is None


def test_class_table_is_scikit_learns_recall_averaged_over_tasks():
    table = class_table(predictions()).set_index(["label", "model"])
    for model in ("baseline", "augmented"):
        own = predictions().query("model == @model")
        by_task = [
            recall_score(t["label"], t["predicted"], labels=LABELS, average=None)
            for _, t in own.groupby("task")
        ]
        for label, expected in zip(LABELS, np.mean(by_task, axis=0), strict=True):
            assert table.loc[(label, model), "accuracy"] == pytest.approx(expected, abs=1e-6)
            assert table.loc[(label, model), "tasks"] == 2


def test_queries_are_predicted_by_the_highest_probability_and_pairs_compete_alone():
    # probabilities are the softmax of the embeddings themselves
    weights = {"weight": np.eye(3), "bias": np.zeros(3)}
    classifier = Classifier("logistic", "backbone", Path(), LABELS, weights)
    scores = np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [0.0, 1.0, 2.0]])
    predicted, near = predict_queries(
        classifier, Examples([], scores, ["a", "b", "b", "c"]), [("a", "b")]
    )
    assert predicted.to_dict("list") == {"label": ["a", "b", "b", "c"], "predicted": list("accc")}
    assert near[:3, 0].tolist() == [1, 1, 0]
    assert np.isnan(near[3, 0])  # of a and b alone: right, right, wrong


def test_label_consistency_is_the_share_that_transformers_own_model_predicts_as_the_label():
    query = read_images(Path("data/bundled/test")).groupby("label").head(3)
    pictures = [decode_image(png) for png in query["png"]]
    labels = np.roll(query["label"].to_numpy(), 1)  # some of them are wrong on purpose
    members = pd.DataFrame(
        {"key": list(query["image_id"]), "label": labels, "file_name": list(query["image_id"])}
    )
    ordered = [p for _, p in sorted(zip(query["image_id"], pictures, strict=True))]
    judged = verdicts(members, ordered, oracle=load_oracle(Path("zoo/oracle")))
    model = AutoModelForImageClassification.from_pretrained("zoo/oracle", dtype=torch.float32)
    stack = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        predicted = model(stack.float() / 127.5 - 1).logits.argmax(1)
    names = [model.config.id2label[int(i)] for i in predicted]
    assert judged["consistent"].mean() == pytest.approx(np.mean(np.array(names) == labels))
    assert 0 < judged["consistent"].mean() < 1


def test_oracle_that_does_not_know_a_class_gives_no_verdicts(caplog):
    members = pd.DataFrame({"key": ["k"], "label": ["zebra"], "file_name": ["f"]})
    picture = Image.new("RGB", (32, 32))
    judged = verdicts(members, [picture], oracle=load_oracle(Path("zoo/oracle")))
    assert judged.empty
    assert "does not know the class 'zebra'" in caplog.text


def rows_of(task: int, support: list[str], query: list[str]) -> list[tuple[int, str, str, str]]:
    named = [("support", support), ("query", query)]
    return [(task, role, image, image[0]) for role, images in named for image in images]


@pytest.mark.parametrize(
    ("second", "over"),
    [
        (None, "query images"),
        ((["a2", "b2"], ["a8", "b8"]), "support sets"),
        ((["a2", "b2"], ["a9", "b9"]), "tasks"),
        ((["a8", "b8"], ["a1", "b1"]), "splits"),
    ],
)
def test_intervals_are_over_what_differs_between_tasks(second, over):
    rows = rows_of(0, ["a1", "b1"], ["a8", "b8"])
    rows += rows_of(1, *second) if second else []
    assert interval_over(pd.DataFrame(rows, columns=list(TASKS))) == over


def test_intervals_over_splits_are_wider_by_the_share_of_queries_as_nadeau_and_bengio_have_it():
    splits = [rows_of(task, [f"a{i}" for i in range(10) if i % 5 != task] + ["b0"],
                      [f"a{i}" for i in range(10) if i % 5 == task] + ["b1"])
              for task in (0, 1)]  # fmt: skip
    table = pd.DataFrame([row for split in splits for row in split], columns=list(TASKS))
    nothing = {"members": pd.DataFrame({"file_name": [], "r": []}),
               "verdicts": pd.DataFrame({"consistent": []})}  # fmt: skip
    found = summarise(scores(), tasks=table, **nothing)
    gains = np.array(accuracies("augmented")) - accuracies("baseline")
    # nine support and three query images: the variance is (1/2 + 3/9) times that of a split
    half = stats.t.ppf(0.975, 1) * np.sqrt((1 / 2 + 3 / 9) * gains.var(ddof=1))
    assert found["gain"].high == pytest.approx(min(1, gains.mean() + half), abs=1e-5)
    assert found["gain"].low == pytest.approx(max(-1, gains.mean() - half), abs=1e-5)
    assert found["interval_over"] == "splits"
    equal = summarise(scores().assign(accuracy=0.7), tasks=table, **nothing)
    assert equal["gain"] == Interval(0, None, None, 2)  # which is not certain
    assert found["predict_accuracy"] == pytest.approx(accuracies("augmented")[0], abs=1e-6)


def test_default_metrics_are_those_of_the_committed_scores_with_their_intervals():
    committed = json.loads(Path("metrics/evaluate.json").read_text())
    table = read_table(Path("metrics/tasks.csv"), SCORES)
    sets = [rows_of(task, [f"a{task}", f"b{task}"], ["a8", "b8"]) for task in range(5)]
    nothing = {"members": pd.DataFrame({"file_name": [], "r": []}),
               "verdicts": pd.DataFrame({"consistent": []})}  # fmt: skip
    rows = pd.DataFrame([row for own in sets for row in own], columns=list(TASKS))
    found = summarise(table, tasks=rows, **nothing)
    for name in ("baseline", "augmented", "gain", "gain_boundary", "gain_few"):
        assert asdict(found[name]) == pytest.approx(committed[name], abs=2e-6)
    assert found["interval_over"] == "support sets"


def test_one_task_has_intervals_over_its_query_images_with_near_duplicates_together():
    label = np.repeat(["a", "b"], 40)
    block = np.arange(80) // 8  # ten blocks of equal images
    wrong = {"baseline": block % 4 == 0, "augmented": block % 8 == 0}
    table = pd.concat(
        pd.DataFrame({"label": label, "predicted": np.where(wrong[name], "c", label)}).assign(
            model=name
        )
        for name in ("augmented", "baseline")
    )
    near = {name: np.where(wrong[name], 0.0, 1.0)[:, None] for name in wrong}
    tasks = pd.DataFrame({"role": "support", "label": ["a"] * 25 + ["b"] * 2})
    alone, together = (
        over_queries(table, near, tasks=tasks, groups=groups) for groups in (range(80), block)
    )
    assert alone["gain"].mean == together["gain"].mean == pytest.approx(0.1)
    assert alone["gain"].n == 80
    assert alone["gain_boundary"] == alone["gain"]
    assert alone["gain_few"].n == alone["gain_medium"].n == 40
    assert "gain_many" not in alone
    for name in ("baseline", "gain"):
        own, joint = (found[name].high - found[name].low for found in (alone, together))
        assert joint > 1.8 * own  # eight times fewer independent images


# A whole run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("run")
    write_small_run(root, load_backbone(Path("zoo/backbone"), device="cpu"))
    return root


@pytest.fixture(scope="module")
def evaluated(run):
    shown = []

    def progress(items, label, *, total, unit="", **options):
        shown.append((label, total, unit))
        return items

    backbone = load_backbone(Path("zoo/backbone"), device="cpu")
    oracle = load_oracle(Path("zoo/oracle"), device="cpu")
    found = evaluate(read_scored(run), backbone=backbone, oracle=oracle, progress=progress)
    labels = [(label, unit) for label, _, unit in shown]
    assert labels == [("embed images", "image"), ("evaluate", "task"), ("judge images", "image")]
    return found


def test_every_query_is_predicted_by_both_models_of_its_task(run, evaluated):
    query = read_table(run / "data/prepared/tasks.csv", TASKS).query("role == 'query'")
    table = evaluated.predictions
    assert list(table.columns) == ["label", "predicted", "task", "model"]
    for (_, number), own in table.groupby(["model", "task"]):
        assert sorted(own["label"]) == sorted(query.loc[query["task"] == number, "label"])
    assert set(table["model"]) == {"baseline", "augmented"}


def test_evaluation_is_the_scores_and_the_summary_of_its_predictions(run, evaluated):
    accuracy = evaluated.scores.set_index(["task", "model"])["accuracy"]
    for (model, task), own in evaluated.predictions.groupby(["model", "task"]):
        expected = accuracy_score(own["label"], own["predicted"])
        assert accuracy[task, model] == pytest.approx(expected, abs=1e-6)
    assert evaluated.scores["boundary"].between(0, 1).all()
    members = read_table(run / "data/augmented/members.csv", MEMBERS)
    tasks = read_table(run / "data/prepared/tasks.csv", TASKS)
    expected = summarise(
        evaluated.scores, tasks=tasks, members=members, verdicts=evaluated.verdicts
    )
    assert evaluated.summary == expected
    assert len(evaluated.verdicts) == members["file_name"].nunique() == expected["images"]


def test_written_evaluation_is_read_back(evaluated, tmp_path):
    write_evaluation(evaluated, tmp_path)
    scores = read_table(tmp_path / "metrics/tasks.csv", SCORES)
    expected = evaluated.scores.fillna(np.nan)
    pd.testing.assert_frame_equal(scores, expected.infer_objects(), check_dtype=False)
    verdicts = read_table(tmp_path / "data/evaluation/verdicts.csv", VERDICTS)
    assert list(verdicts["verdict"]) == list(evaluated.verdicts["verdict"])
    classes = read_table(tmp_path / "metrics/classes.csv", CLASS_SCORES)
    assert len(classes) == 2 * len(CLASSES)
    own = evaluated.predictions
    for file, model in (("confusion_baseline.csv", "baseline"), ("confusion.csv", "augmented")):
        table = read_table(tmp_path / "plots" / file, PREDICTED)
        assert list(table["predicted"]) == list(own.loc[own["model"] == model, "predicted"])
    summary = json.loads((tmp_path / "metrics/evaluate.json").read_text())
    assert summary["gain"] == asdict(evaluated.summary["gain"])
    assert summary["images"] == evaluated.summary["images"]


def test_evaluation_of_one_task_has_intervals_over_its_query_images(run):
    scored = read_scored(run)
    first = scored.tasks[scored.tasks["task"] == 0]
    one = evaluate(
        replace(scored, tasks=first),
        backbone=load_backbone(Path("zoo/backbone"), device="cpu"),
        oracle=load_oracle(Path("zoo/oracle"), device="cpu"),
    )
    queries = (first["role"] == "query").sum()
    assert one.summary["interval_over"] == "query images"
    for name in ("baseline", "augmented", "gain"):
        found = one.summary[name]
        assert found.n == queries == one.summary["queries"]
        assert found.low <= found.mean <= found.high
    accuracy = one.scores.set_index("model")["accuracy"]
    assert one.summary["augmented"].mean == accuracy["augmented"]
    assert one.summary["predict_accuracy"] == accuracy["augmented"]
    assert one.summary["queries_per_class"] == 3


@pytest.mark.parametrize(
    "name",
    [
        "data/augmented/members.csv",
        "data/prepared/query/images.parquet",
        "data/prepared/tasks.csv",
        "data/sources/confusion.csv",
        "models/augmented/classes.json",
    ],
)
def test_missing_output_of_an_earlier_stage_is_named(run, name):
    hidden = run / "hidden"
    (run / name).rename(hidden)
    try:
        with pytest.raises(MissingFileError, match=f"{name} does not exist; run `dvc repro`"):
            read_scored(run)
    finally:
        hidden.rename(run / name)
