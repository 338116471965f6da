import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.unusual import biased, compare, group_scores, opposite_ends, queries_of
from genie.data.images import encode_png


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


def test_worst_is_the_least_group_of_each_task_and_differences_are_paired():
    rows = [
        (task, label, third, right)
        for task in (0, 1)
        for label, third, right in (
            ("a", "usual", True), ("a", "unusual", task == 0), ("b", "usual", True),
            ("b", "unusual", False), ("b", "unusual", True),
        )
    ]  # fmt: skip
    correct = pd.DataFrame(rows, columns=["task", "label", "third", "correct"])
    scores = group_scores(correct)
    assert scores["worst"].tolist() == [0.5, 0.0]
    assert scores["all"].tolist() == pytest.approx([0.8, 0.6])
    assert scores["unusual"].tolist() == pytest.approx([2 / 3, 1 / 3])
    groups, classes = compare("s", {"Txt2Img": correct, "other": correct.assign(correct=True)})
    gap = groups.set_index(["method", "group"])["to_reference"]
    assert gap["other", "all"] == pytest.approx(0.3)
    assert gap["Txt2Img", "worst"] == 0
    assert (
        classes.set_index(["method", "label", "third"])["accuracy"]["Txt2Img", "a", "unusual"]
        == 0.5
    )
