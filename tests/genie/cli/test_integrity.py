import os
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest

from genie.cli.dvc_cache import tracked_folder
from genie.cli.integrity import Fault, faults
from genie.render.store import load_image, store_path
from tests.scratch import call, contents
from tests.tracked import flip_bit, key_of, make_tracked


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tracked(tmp_path_factory.mktemp("tracked") / "place")


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "place", symlinks=True)
    return tmp_path / "place"


def found(place: Path, *, repair: bool = False) -> list[Fault]:
    folder = place / "data/augmented"
    tracked = tracked_folder(place, folder)
    return list(faults(folder, store=place / ".genie/store", tracked=tracked, repair=repair))


def images(place: Path) -> list[Path]:
    return sorted((place / "data/augmented").glob("*/*.png"))


def stored(place: Path, image: Path) -> Path:
    return store_path(place / ".genie/store", image.stem)


def healed(place: Path, original: Path) -> bool:
    """Whether another look finds nothing, and the set and DVC's cache are as they were."""
    same = [
        contents(place / name) == contents(original / name)
        for name in ("data/augmented", ".dvc/cache/files/md5")
    ]
    return found(place) == [] and all(same)


def test_set_as_it_was_written_has_no_fault(place):
    assert found(place) == []


@pytest.mark.parametrize("keep_time", [False, True])
def test_flipped_bit_in_an_image_of_the_set_is_found_and_put_back(place, original, keep_time):
    draw = random.Random(0)
    for path in images(place)[:3]:
        flip_bit(path, draw, keep_time=keep_time)
    assert [fault.path for fault in found(place)] == images(place)[:3]
    assert {fault.done for fault in found(place, repair=True)} == {"restored"}
    assert healed(place, original)


def test_flipped_bit_that_dvc_does_not_see_is_found(place):
    path = images(place)[0]
    assert "up to date" in call(place, "dvc", "status")
    flip_bit(path, random.Random(0), keep_time=True)
    assert "up to date" in call(place, "dvc", "status")
    assert [fault.path for fault in found(place)] == [path]


@pytest.mark.parametrize("level", [0, 1])
def test_flipped_bit_in_the_store_is_found_and_the_image_is_rendered_again(place, level):
    path = store_path(place / ".genie/store", key_of(0, level))
    flip_bit(path, random.Random(0), keep_time=True)
    assert [fault.path for fault in found(place)] == [path]
    (fault,) = found(place, repair=True)
    assert found(place) == []
    in_set = level == 1
    assert fault.done == ("restored" if in_set else "removed; `dvc repro` recreates it")
    assert (load_image(place / ".genie/store", key_of(0, level)) is not None) == in_set


def test_image_that_the_cache_links_to_is_put_back_in_both(place, original):
    path = images(place)[0]
    tracked = tracked_folder(place, place / "data/augmented")
    digest = tracked.hashes[path.relative_to(place / "data/augmented").as_posix()]
    cached = tracked.cache / digest[:2] / digest[2:]
    path.unlink()
    os.link(cached, path)
    flip_bit(path, random.Random(0), keep_time=True)
    assert path.read_bytes() == cached.read_bytes()
    found(place, repair=True)
    assert healed(place, original)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path, other: path.unlink(), "is missing"),
        (lambda path, other: path.write_bytes(b""), "does not decode"),
        (lambda path, other: path.write_bytes(path.read_bytes()[:100]), "does not decode"),
        (lambda path, other: shutil.copy(other, path), "does not match its hash in metadata.csv"),
        (
            lambda path, other: path.write_bytes(path.read_bytes() + b"more"),
            "is not the file that DVC recorded",
        ),
    ],
)
def test_each_kind_of_damage_is_told_and_healed(place, original, damage, what):
    path, other = images(place)[:2]
    damage(path, other)
    (fault,) = found(place)
    assert (fault.path, fault.what) == (path, what)
    found(place, repair=True)
    assert healed(place, original)


def test_image_without_a_good_copy_is_removed_so_that_dvc_sees_it(place):
    path = images(place)[0]
    shutil.rmtree(place / ".dvc/cache/files/md5/", ignore_errors=False, onerror=None)
    stored(place, path).unlink()
    path.write_bytes(b"broken")
    folder = place / "data/augmented"
    (fault,) = faults(folder, store=place / ".genie/store", tracked=None, repair=True)
    assert fault == Fault(path, "does not decode", "removed; `dvc repro` recreates it")
    assert not path.exists()


@pytest.mark.parametrize("name", ["metadata.csv", "members.csv", "trajectories.parquet"])
def test_damaged_table_is_put_back_from_the_cache(place, original, name):
    flip_bit(place / "data/augmented" / name, random.Random(1), keep_time=True)
    assert (place / "data/augmented" / name) in [fault.path for fault in found(place)]
    found(place, repair=True)
    assert healed(place, original)


def test_image_without_row_and_row_without_member_are_reported(place):
    folder = place / "data/augmented"
    shutil.copy(images(place)[0], folder / "bag/stray.png")
    members = pd.read_csv(folder / "members.csv")
    members.iloc[1:].to_csv(folder / "members.csv", index=False)
    without_dvc = list(faults(folder, store=place / "none", tracked=None, repair=False))
    name = members["file_name"][0]
    assert without_dvc == [
        Fault(folder / "metadata.csv", f"lists {name}, which is missing from members.csv"),
        Fault(folder / "bag/stray.png", "is not listed in metadata.csv; remove it"),
    ]


def test_row_that_points_outside_the_folder_is_reported_and_nothing_outside_is_touched(place):
    folder = place / "data/augmented"
    outside = place / "secret.png"
    outside.write_bytes(b"secret")
    for name in ("metadata.csv", "members.csv"):
        table = pd.read_csv(folder / name)
        table.loc[0, "file_name"] = "../../secret.png"
        table.to_csv(folder / name, index=False)
    list(faults(folder, store=place / "none", tracked=None, repair=True))
    assert outside.read_bytes() == b"secret"


def test_set_whose_metadata_is_unreadable_is_one_fault_that_names_the_file(place):
    folder = place / "data/augmented"
    (folder / "metadata.csv").write_text("nonsense")
    told = [f.what for f in faults(folder, store=place / "none", tracked=None, repair=False)]
    assert any(str(folder / "metadata.csv") in what for what in told)
