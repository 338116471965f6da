import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genie.cli.dvc_cache import tracked_folder
from genie.cli.integrity import Fault, faults
from genie.data.shards import Shards, shard_files
from genie.render.store import load_image, store_path
from tests.scratch import contents
from tests.tracked import flip_bit, key_of, make_tracked, picture_of


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracked set of six images in three shards."""
    return make_tracked(tmp_path_factory.mktemp("tracked") / "place", shard=2)


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "place", symlinks=True)
    return tmp_path / "place"


def found(place: Path, *, repair: bool = False, tracked: bool = True) -> list[Fault]:
    folder = place / "data/augmented"
    known = tracked_folder(place, folder) if tracked else None
    return list(faults(folder, store=place / ".genie/store", tracked=known, repair=repair))


def shards(place: Path) -> list[Path]:
    return shard_files(place / "data/augmented")


def healed(place: Path, original: Path) -> bool:
    """Whether another look finds nothing, and the set and DVC's cache are as they were."""
    same = [
        contents(place / name) == contents(original / name)
        for name in ("data/augmented", ".dvc/cache/files/md5")
    ]
    return found(place) == [] and all(same)


def cached(place: Path, shard: Path) -> Path:
    tracked = tracked_folder(place, place / "data/augmented")
    assert tracked
    digest = tracked.hashes[shard.name]
    return tracked.cache / digest[:2] / digest[2:]


def test_set_in_shards_as_it_was_written_has_no_fault(place):
    assert len(shards(place)) == 3
    assert found(place) == []
    assert found(place, tracked=False) == []


def test_flipped_bit_anywhere_in_a_shard_is_found_and_put_back(place, original):
    folder, store = place / "data/augmented", place / ".genie/store"
    tracked, draw = tracked_folder(place, folder), random.Random(0)
    for _ in range(40):
        path = draw.choice(shards(place))
        flip_bit(path, draw, keep_time=True)
        told = list(faults(folder, store=store, tracked=tracked, repair=False))
        assert [fault.path for fault in told] == [path]
        (fault,) = faults(folder, store=store, tracked=tracked, repair=True)
        assert fault.done == "restored"
    assert healed(place, original)


def test_damaged_image_of_a_shard_is_named(place):
    path = shards(place)[1]
    (name, *_) = sorted(Shards([path]).places)
    content = path.read_bytes()
    png = Shards([path]).png(name)
    middle = content.index(png) + len(png) // 2
    path.write_bytes(content[:middle] + bytes(8) + content[middle + 8 :])
    for tracked in (True, False):
        (fault,) = found(place, tracked=tracked)
        assert fault == Fault(path, f"contains {name}, which does not decode")


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"PAR1"), "cannot be read"),
    ],
)
def test_shard_that_is_in_no_cache_is_made_again_of_the_images_of_the_store(
    place, original, damage, what
):
    path = shards(place)[1]
    cached(place, path).unlink()
    damage(path)
    assert found(place, repair=True) == [Fault(path, what, "restored")]
    assert healed(place, original)


def test_untracked_shard_is_made_again_of_the_images_of_the_store(place, original):
    path = shards(place)[1]
    path.write_bytes(b"PAR1")
    assert found(place, repair=True, tracked=False) == [Fault(path, "cannot be read", "restored")]
    assert path.read_bytes() == shards(original)[1].read_bytes()


def test_shard_that_the_cache_links_to_is_put_back_in_both(place, original):
    path = shards(place)[0]
    path.unlink()
    os.link(cached(place, path), path)
    flip_bit(path, random.Random(0), keep_time=True)
    assert [fault.done for fault in found(place, repair=True)] == ["restored"]
    assert healed(place, original)


def test_good_images_of_a_shard_that_is_removed_go_to_the_store(place):
    path = shards(place)[0]
    table = Shards([path])
    first, second = sorted(table.places)
    content, png = path.read_bytes(), table.png(first)
    cached(place, path).write_bytes(b"damaged")
    shutil.rmtree(place / ".genie/store")
    path.write_bytes(content.replace(png, bytes(len(png))))
    (fault,) = found(place, repair=True)
    assert fault.done == "removed; `dvc repro` recreates it"
    assert not path.exists()
    assert not cached(place, path).exists()  # or DVC would check it out again
    store = place / ".genie/store"
    assert load_image(store, Path(first).stem) is None
    assert load_image(store, Path(second).stem) == table.png(second)


def test_copy_in_the_store_that_differs_is_replaced(place, original):
    stored = store_path(place / ".genie/store", key_of(0, 1))
    stored.write_bytes(picture_of("f" * 64))
    (fault,) = found(place, repair=True)
    assert fault == Fault(stored, "differs from the image of the set", "restored")
    assert contents(place / ".genie/store") == contents(original / ".genie/store")


def test_row_without_image_and_image_without_row_are_reported(place):
    path = shards(place)[2]
    table = pq.read_table(path)
    names = table["file_name"].to_pylist()
    renamed = table.set_column(0, "file_name", pa.array([names[0], "bag/other.png"]))
    pq.write_table(renamed, path)
    assert found(place, tracked=False) == [
        Fault(place / "data/augmented/metadata.csv", f"lists {names[1]}, which is in no shard"),
        Fault(path, "contains bag/other.png, which is missing from metadata.csv"),
    ]


def test_image_file_beside_the_shards_is_reported(place):
    (name, *_) = Shards(shards(place)).places
    stray = place / "data/augmented" / name
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"")
    assert found(place, tracked=False) == [Fault(stray, "is not listed in metadata.csv; remove it")]


def test_shards_are_not_touched_where_metadata_cannot_be_read(place, original):
    (place / "data/augmented/metadata.csv").write_text("nonsense")
    before = [path.read_bytes() for path in shards(place)]
    assert found(place, repair=True, tracked=False)
    assert [path.read_bytes() for path in shards(place)] == before
