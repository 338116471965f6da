import os
import re
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

from genie.cli.garbage import Garbage, collect
from genie.core.errors import GenieError
from genie.render.locks import in_use
from tests.scratch import call, commit
from tests.tracked import make_tracked, picture_of, trajectories, write_tracked


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tracked(tmp_path_factory.mktemp("tracked") / "place")


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """The set of seed 0 on the branch, and images that no set refers to, all of them old."""
    place = tmp_path / "place"
    shutil.copytree(original, place, symlinks=True)
    return place


def collected(place: Path, *, days: float = 0, delete: bool = True) -> Garbage:
    return collect(place, place / ".genie/store", days=days, delete=delete)


def keys(place: Path) -> set[str]:
    return {path.stem for path in (place / ".genie/store").glob("*/*.png")}


def test_levels_that_were_not_chosen_belong_to_a_set_too(place):
    assert collected(place) == Garbage(0, 0, 18)


def test_image_of_no_set_is_dropped(place):
    key = "f" * 64
    path = place / f".genie/store/ff/{key}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(picture_of(key))
    expected = Garbage(1, len(picture_of(key)), 18)
    assert collected(place, delete=False) == expected
    assert path.exists()
    assert collected(place, days=1) == Garbage(0, 0, 19)  # it is young
    os.utime(path, (0, time.time() - 2 * 86400))
    assert collected(place, days=1) == expected
    assert not path.exists()


@pytest.mark.parametrize("kind", ["branch", "tag", "experiment", "none"])
def test_set_of_a_branch_a_tag_or_an_experiment_keeps_its_images(place, kind):
    write_tracked(place, images=4, seed=1)
    if kind == "branch":
        call(place, "git", "branch", "other")
    if kind == "tag":
        call(place, "git", "tag", "kept")
    if kind == "experiment":
        head = call(place, "git", "rev-parse", "HEAD").strip()
        baseline = call(place, "git", "rev-parse", "HEAD~1").strip()
        name = f"refs/exps/{baseline[:2]}/{baseline[2:]}/exp-1"
        call(place, "git", "update-ref", name, head)
    call(place, "git", "reset", "--quiet", "--hard", "HEAD~1")
    call(place, "dvc", "checkout", "--quiet")
    ours, theirs = (set(trajectories(n, seed=s)["key"]) for n, s in ((6, 0), (4, 1)))
    assert keys(place) == ours | theirs
    collected(place)
    assert keys(place) == (ours if kind == "none" else ours | theirs)


def test_set_in_the_workspace_that_is_not_committed_keeps_its_images(place):
    table = trajectories(4, seed=1)
    table.to_parquet(place / "data/augmented/trajectories.parquet")
    for key in table["key"]:
        path = place / f".genie/store/{key[:2]}/{key}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture_of(key))
    assert collected(place) == Garbage(0, 0, 30)


def test_nothing_is_dropped_where_the_tables_of_a_revision_are_not_here(place):
    call(place, "git", "tag", "kept")
    cache = place / ".dvc/cache/files/md5"
    shutil.rmtree(cache)
    with pytest.raises(GenieError, match=r"tables of data/augmented in .* not in DVC's cache"):
        collected(place)
    assert len(keys(place)) == 18


def test_set_that_the_branch_has_from_another_machine_stops_nothing(place):
    (tracked,) = (place / "data").glob("*.dvc")
    ours = tracked.read_text()
    (digest,) = re.findall(r"md5: (\w+)\.dir", ours)
    tracked.write_text(ours.replace(digest, digest[::-1]))
    commit(place)
    tracked.write_text(ours)
    assert collected(place) == Garbage(0, 0, 18)


def test_nothing_is_dropped_where_a_table_in_the_cache_is_damaged(place):
    for path in (place / ".dvc/cache/files/md5").rglob("*"):
        if path.is_file() and path.read_bytes()[:4] == b"PAR1":
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GenieError, match="fetch them"):
        collected(place)
    assert len(keys(place)) == 18


def test_images_of_a_row_of_a_table_are_kept(place):
    key = "f" * 64
    path = place / f".genie/store/ff/{key}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(picture_of(key))
    keys_of_row = place / ".genie/protocols/tiny/logistic/keys/GeNIe.parquet"
    keys_of_row.parent.mkdir(parents=True)
    pd.DataFrame({"key": [key]}).to_parquet(keys_of_row)
    assert collected(place) == Garbage(0, 0, 19)


def test_nothing_is_dropped_while_a_run_uses_the_store(place):
    with in_use(place / ".genie/store"):
        assert collected(place, delete=False).kept == 18
        with pytest.raises(GenieError, match="store is in use by a run"):
            collected(place)


def test_folder_without_dvc_is_an_error(tmp_path):
    with pytest.raises(GenieError, match="must be a DVC repository"):
        collected(tmp_path)


def test_temporary_files_of_dead_runs_are_dropped(place):
    file = place / ".genie/store/ab/.abc-x.tmp"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"half")
    collected(place)
    assert not file.exists()
