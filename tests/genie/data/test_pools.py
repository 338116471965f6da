from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genie.core.errors import InvalidValueError
from genie.core.progress import silent
from genie.core.tables import SKIPPED
from genie.data.pools import Pools, Splitting, read_and_split
from genie.data.tasks import Draws, leaks


def detailed(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 64))


def class_folders(root: Path, *, count: int = 8, first: int = 0) -> Path:
    for c, label in enumerate("ab"):
        (root / label).mkdir(parents=True)
        for i in range(count):
            detailed(first + 100 * c + i).save(root / label / f"{i}.png")
    return root


def pools_of(path: Path, **changes) -> Pools:
    given = {name: changes.pop(name) for name in ("fraction", "seed", "splits") if name in changes}
    splitting = Splitting(**({"fraction": 0.25, "seed": 0} | given))
    options = {"size": None, "skip_broken": False, "progress": silent}
    return read_and_split(path, splitting=splitting, **(options | changes))


def test_query_images_are_split_off_where_there_is_no_test_split(tmp_path):
    found = pools_of(class_folders(tmp_path))
    assert found.query["label"].value_counts().to_dict() == {"a": 2, "b": 2}
    assert found.support["label"].value_counts().to_dict() == {"a": 6, "b": 6}
    assert not set(found.support["image_id"]) & set(found.query["image_id"])
    assert found.skipped.empty
    assert list(found.skipped.columns) == list(SKIPPED)
    other = pools_of(tmp_path, seed=1)
    assert set(other.query["image_id"]) != set(found.query["image_id"])


def test_test_split_is_the_query_pool(tmp_path):
    class_folders(tmp_path / "train", count=3)
    class_folders(tmp_path / "test", count=2, first=50)
    found = pools_of(tmp_path)
    assert (len(found.support), len(found.query)) == (6, 4)


def test_support_candidates_that_nearly_duplicate_queries_are_dropped_with_a_warning(
    tmp_path, caplog
):
    class_folders(tmp_path / "train", count=3)
    class_folders(tmp_path / "test", count=2, first=50)
    detailed(0).save(tmp_path / "test/a/again.jpg", quality=80)
    found = pools_of(tmp_path)
    assert (len(found.support), len(found.query)) == (5, 5)
    assert "dropped 1 support candidates that nearly duplicate query images" in caplog.text


def test_images_are_resized(tmp_path):
    found = pools_of(class_folders(tmp_path, count=4), size=8)
    assert all(b"IHDR\x00\x00\x00\x08\x00\x00\x00\x08" in png for png in found.support["png"])


def test_images_that_cannot_be_read_are_listed_only_if_they_may_be_skipped(tmp_path, caplog):
    broken = class_folders(tmp_path) / "a/text.png"
    broken.write_text("no image")
    with pytest.raises(InvalidValueError, match=r"text.png \(not an image\)"):
        pools_of(tmp_path)
    found = pools_of(tmp_path, skip_broken=True)
    assert found.skipped.values.tolist() == [[str(broken), "a", "not an image"]]
    assert len(found.support) + len(found.query) == 16
    assert "skipped 1 images that cannot be read, the first is" in caplog.text


def test_progress_is_shown_for_reading_and_for_both_comparisons(tmp_path):
    labels = []

    def progress(items, label, *, total, unit="", **options):
        labels.append((label, total, unit))
        return items

    pools_of(class_folders(tmp_path), progress=progress)
    assert labels == [
        ("reading images", 16, "image"),
        ("looking for near-duplicates", 2, "class"),
    ]


def test_pools_of_tasks_have_only_the_images_that_the_tasks_use(tmp_path):
    every = pools_of(class_folders(tmp_path))
    ids = [every.support["image_id"][1], every.query["image_id"][2]]
    rows = {"role": ["support", "query", "support"], "image_id": [ids[0], ids[1], ids[0]]}
    some = every.used_by(pd.DataFrame(rows))
    assert list(some.support["image_id"]) == ids[:1]
    assert list(some.query["image_id"]) == ids[1:]
    assert list(some.support.index) == list(some.query.index) == [0]
    assert some.skipped is every.skipped


def test_links_to_folders_whose_changes_dvc_does_not_see_are_named(tmp_path, caplog):
    data = class_folders(tmp_path / "data")
    (tmp_path / "link").symlink_to(data)
    pools_of(tmp_path / "link")
    assert caplog.messages == []
    (tmp_path / "all").mkdir()
    for label in "ab":
        (tmp_path / "all" / label).symlink_to(data / label)
    assert len(pools_of(tmp_path / "all").support) == 12
    (line,) = caplog.messages
    assert f"DVC does not follow 2 links to folders, the first is {tmp_path}/all/a; copy" in line


def test_several_splits_are_tasks_of_the_same_images_and_begin_with_the_single_one(tmp_path):
    one, three = (pools_of(class_folders(tmp_path / "d") if n == 1 else tmp_path / "d", splits=n)
                  for n in (1, 3))  # fmt: skip
    draws = Draws("all", seed=0, tasks=3)
    tasks = three.tasks(draws)
    assert tasks["task"].unique().tolist() == [0, 1, 2]
    pd.testing.assert_frame_equal(tasks[tasks["task"] == 0], one.tasks(Draws("all", seed=0)))
    assert leaks(tasks).empty
    every = set(one.support["image_id"]) | set(one.query["image_id"])
    queries = []
    for _, own in tasks.groupby("task"):
        assert set(own["image_id"]) == every
        assert own["role"].value_counts().to_dict() == {"support": 12, "query": 4}
        queries.append(frozenset(own.loc[own["role"] == "query", "image_id"]))
    assert len(set(queries)) == 3
    used = three.used_by(tasks)
    for role, images in (("support", used.support), ("query", used.query)):
        assert set(images["image_id"]) == set(tasks.loc[tasks["role"] == role, "image_id"])
        assert images["image_id"].is_unique
    assert set(one.used_by(one.tasks(draws)).query["image_id"]) == queries[0]


def test_a_test_split_leaves_one_task_whatever_number_is_asked_for(tmp_path, caplog):
    class_folders(tmp_path / "train", count=3)
    class_folders(tmp_path / "test", count=2, first=50)
    found = pools_of(tmp_path, splits=5)
    assert found.tasks(Draws("all", seed=0))["task"].unique().tolist() == [0]
    assert "`tasks` is 5, but the data have a test split, so there is one task" in caplog.text


@pytest.mark.parametrize(("count", "said"), [(29, True), (30, False)])
def test_a_class_with_few_query_images_is_warned_of(caplog, count, said):
    rows = {
        role: pd.DataFrame({"image_id": [f"{role} {c} {i}" for c in "ab" for i in range(n)],
                            "label": [c for c in "ab" for i in range(n)], "png": b""})
        for role, n in (("support", 2), ("query", count))
    }  # fmt: skip
    Pools(rows["support"], rows["query"], pd.DataFrame()).tasks(Draws("all", seed=0))
    warned = "2 of 2 classes have fewer than 30 query images (class 'a' has 29)"
    assert (warned in caplog.text) == said
