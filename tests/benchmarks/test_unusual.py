import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from scipy import stats

from benchmarks.unusual import (
    METHODS,
    at_boundary,
    biased,
    compare,
    draw,
    group_scores,
    main,
    opposite_ends,
    queries_of,
)
from genie.data.images import encode_png
from genie.measure.metrics import boundary_accuracy

ROOT = Path(__file__).parents[2]
FEW = ("Unchanged copies", "Strong")  # rows that render nothing


def grey(levels, labels) -> pd.DataFrame:
    """An images table of plain grey images."""
    png = [encode_png(Image.new("RGB", (32, 32), (v, v, v))) for v in levels]
    return pd.DataFrame({"image_id": [str(v) for v in levels], "label": labels, "png": png})


def test_most_confused_classes_have_opposite_ends_and_the_lighter_one_is_bright():
    names = list("abcd")
    matrix = pd.DataFrame(np.eye(4), names, names)
    matrix.loc["a", "c"], matrix.loc["c", "b"], matrix.loc["d", "a"] = 0.5, 0.4, 0.3
    lightness = pd.Series({"a": 10, "b": 40, "c": 20, "d": 30})
    assert opposite_ends(matrix, lightness) == {"a": False, "c": True, "b": True, "d": False}


def test_biased_support_is_the_quarter_at_the_end_of_its_class():
    pool = grey([*range(10, 90, 10), *range(100, 180, 10)], ["a"] * 8 + ["b"] * 8)
    found = biased(pool, {"a": True, "b": False})
    assert sorted(found["image_id"]) == ["100", "110", "70", "80"]


def test_queries_far_from_the_pool_of_their_class_are_unusual():
    pool = grey(range(90, 111), ["a"] * 21)
    found = queries_of(pool, grey([101, 150, 240], ["a"] * 3)).set_index("image_id")
    assert found["third"].to_dict() == {"101": "usual", "150": "middle", "240": "unusual"}
    assert found["brightness"].tolist() == [0, 1, 2]


def test_accuracy_in_pairs_is_that_of_the_metrics():
    rng = np.random.default_rng(0)
    shares, classes = rng.random((60, 3)), list("abc")
    labels = np.array(classes * 20)
    pairs = [("a", "b"), ("b", "c")]
    count, right = at_boundary(shares, labels, classes, pairs)
    expected = boundary_accuracy(shares, labels, classes=classes, pairs=pairs)
    assert right.sum() / count.sum() == pytest.approx(expected, abs=1e-6)
    assert count.tolist() == [1, 2, 1] * 20


def answers(rows) -> pd.DataFrame:
    """Answers whose queries are all in one pair, in which they are right as they are in all."""
    correct = pd.DataFrame(rows, columns=["task", "label", "third", "correct"])
    return correct.assign(pairs=1, right_pairs=correct["correct"].astype(int))


ANSWERS = answers(
    (task, label, third, right)
    for task in (0, 1)
    for label, third, right in (
        ("a", "usual", True), ("a", "unusual", task == 0), ("b", "usual", True),
        ("b", "unusual", False), ("b", "unusual", True),
    )
)  # fmt: skip


def test_worst_is_the_least_group_of_each_task_and_differences_are_paired():
    scores = group_scores(ANSWERS)
    assert scores["worst"].tolist() == [0.5, 0.0]
    assert scores["all"].tolist() == pytest.approx([0.8, 0.6])
    assert scores["unusual"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert scores["unusual minus usual"].tolist() == pytest.approx([-1 / 3, -2 / 3])
    right = ANSWERS.assign(correct=True)
    spread = stats.t.ppf(0.975, 1) * np.std([0.2, 0.4], ddof=1) * (1 / 2 + 0.01 / 0.99) ** 0.5
    table, classes = compare(
        "s", {"Txt2Img": ANSWERS, "Img2Img H (r = 0.7)": right, "other": right}, shared=0.01
    )
    gaps = table.set_index(["method", "group"])
    assert gaps.loc[("other", "all"), "to_txt2img"] == pytest.approx(0.3)
    assert gaps.loc[("other", "all"), "to_img2img"] == 0
    assert gaps.loc[("Txt2Img", "unusual minus usual"), "accuracy"] == -0.5
    assert gaps.loc[("other", "unusual minus usual"), "to_txt2img"] == 0.5
    assert gaps.loc[("Txt2Img", "worst"), "to_txt2img"] == 0
    assert gaps.loc[("Txt2Img", "worst"), "to_img2img"] == -0.75
    assert gaps.loc[("other", "all"), "to_txt2img_low"] == pytest.approx(0.3 - spread, abs=1e-6)
    of_class = classes.set_index(["method", "label", "third"])["accuracy"]
    assert of_class["Txt2Img", "a", "unusual"] == 0.5


def test_boundary_counts_only_queries_of_its_pairs_and_is_cut_by_group():
    own = ANSWERS.assign(pairs=(ANSWERS["label"] == "b").astype(int), end="counter")
    own["right_pairs"] = own["pairs"] * own["correct"]
    scores = group_scores(own)
    assert scores["boundary"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert scores["boundary, unusual"].tolist() == [0.5, 0.5]
    assert scores["boundary, counter"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert scores["counter"].tolist() == scores["all"].tolist()
    assert "aligned" not in scores


def test_figure_names_groups_and_methods(tmp_path):
    table, _ = compare("whole pool", dict.fromkeys(METHODS, ANSWERS), shared=0)
    seen = draw(table, tmp_path / "unusual.png")
    texts = {text.get_text() for text in seen.findobj(lambda a: hasattr(a, "get_text"))}
    assert {*METHODS[1:], "whole pool", "all", "unusual", "worst", "boundary"} <= texts
    with Image.open(tmp_path / "unusual.png") as image:
        assert image.format == "PNG"


@pytest.fixture
def trial(photos, tmp_path, monkeypatch) -> list[str]:
    """Arguments of a run with two rows, two tasks of one of twelve images per class."""
    twelve = shutil.copytree(photos, tmp_path / "photos")
    for path in sorted((twelve / "train").glob("*/*.png")):
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_90).save(path.with_name(f"turned{path.name}"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr("benchmarks.unusual.METHODS", FEW)
    references = dict(zip(("to_txt2img", "to_img2img"), FEW, strict=True))
    monkeypatch.setattr("benchmarks.unusual.REFERENCES", references)
    protocol = yaml.safe_load((ROOT / "protocols/photographs-evidence/protocol.yaml").read_text())
    protocol["params"] = {
        "data.path": str(twelve),
        "data.shots": 1,
        "augment.per_class": 1,
    }
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False))
    places = ["--place", str(tmp_path / "work"), "--out", str(tmp_path)]
    return ["--protocol", str(tmp_path), "--tasks", "2", *places]


def test_rows_that_ran_before_are_read(trial, tmp_path, monkeypatch):
    first = CliRunner().invoke(main, trial)
    assert first.exit_code == 0, first.output
    table = pd.read_csv(tmp_path / "unusual.csv")
    assert set(table["setting"]) == {"whole pool", "biased support"}
    assert set(table["method"]) == {"Weak", *FEW}
    assert table.groupby("setting")["shared"].nunique().tolist() == [1, 1]
    assert {"aligned", "counter"} <= set(table.loc[table["setting"] == "biased support", "group"])
    for folder in (tmp_path / "work").glob("*/models"):
        shutil.rmtree(folder)
    written = (tmp_path / "unusual.csv").read_bytes()
    monkeypatch.setattr("benchmarks.unusual.run_stages", lambda run: pytest.fail("ran again"))
    assert CliRunner().invoke(main, trial).exit_code == 0
    assert (tmp_path / "unusual.csv").read_bytes() == written


def test_a_protocol_without_a_row_is_an_error(trial, tmp_path):
    path = tmp_path / "protocol.yaml"
    path.write_text(path.read_text().replace("Strong:", "Stronger:"))
    result = CliRunner().invoke(main, trial)
    assert result.exit_code == 1
    assert "--protocol must have a row 'Strong'" in result.output
