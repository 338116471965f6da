"""What a method plans for."""

import pandas as pd

from genie.core.seeding import identity
from genie.data.prompts import Prompts
from genie.plan.tasks import TaskSpec


def task(support: pd.DataFrame, sources: list[tuple[str, str, int]] = ()) -> TaskSpec:
    ranked = pd.DataFrame(sources, columns=["target", "source", "rank"])
    return TaskSpec(support, ranked, {}, (0.7,), Prompts(), seed=0)


SUPPORT = pd.DataFrame(
    {"image_id": ["c", "a", "b", "a"], "label": ["coat", "coat", "bag", "coat"], "split": "train"}
)


def test_images_of_a_class_are_distinct_and_sorted():
    assert task(SUPPORT).images == {"bag": ["b"], "coat": ["a", "c"]}


def test_support_ids_depend_on_the_images_of_a_class_alone():
    found = task(SUPPORT).support_ids
    assert found == {"bag": identity(["b"]), "coat": identity(["a", "c"])}
    assert task(SUPPORT.iloc[::-1]).support_ids == found
    others = SUPPORT.assign(image_id=["c", "a", "other", "a"])
    assert task(others).support_ids["coat"] == found["coat"]
    assert task(others).support_ids["bag"] != found["bag"]


def test_source_classes_come_by_rank():
    ranked = [("coat", "bag", 2), ("bag", "coat", 1), ("coat", "shirt", 1)]
    assert task(SUPPORT, ranked).sources_of("coat") == ["shirt", "bag"]
    assert task(SUPPORT, ranked).sources_of("shirt") == []


def test_a_task_without_examples_has_no_images():
    empty = task(pd.DataFrame({"image_id": [], "label": []}))
    assert (empty.images, empty.support_ids) == ({}, {})
