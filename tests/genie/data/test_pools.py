from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genie.core.errors import InvalidValueError
from genie.core.progress import silent
from genie.core.tables import SKIPPED
from genie.data.pools import Pools, read_and_split


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
    options = {"size": None, "skip_broken": False, "query_fraction": 0.25, "seed": 0}
    return read_and_split(path, **(options | {"progress": silent} | changes))


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
    some = every.used_by(pd.DataFrame({"image_id": [ids[0], ids[1], ids[0]]}))
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
