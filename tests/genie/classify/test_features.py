import sqlite3
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genie.classify.features import keep, known


def vector(k: int) -> np.ndarray:
    return np.array([k, -k, 0.1 * k], np.float32)


def test_vectors_are_cached_by_model_and_image(tmp_path):
    path = tmp_path / "deep/features.sqlite"
    assert known(path, "m", ["a"]) == {}
    keep(path, "m", {"a": vector(1), "b": vector(2)})
    keep(path, "other", {"a": vector(9)})
    found = known(path, "m", ["b", "c", "a", "b"])
    assert sorted(found) == ["a", "b"]
    assert (found["a"] == vector(1)).all()
    assert (known(path, "other", ["a"])["a"] == vector(9)).all()


def test_cached_vectors_are_not_replaced(tmp_path):
    path = tmp_path / "f"
    keep(path, "m", {"a": vector(1)})
    keep(path, "m", {"a": vector(2)})
    assert (known(path, "m", ["a"])["a"] == vector(1)).all()


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 1200))
@example(count=500)
@example(count=501)
@example(count=1001)
def test_any_number_of_vectors_is_looked_up(tmp_path_factory, count):
    path = tmp_path_factory.mktemp("features") / "f"
    keep(path, "m", {str(k): vector(k) for k in range(0, count, 2)})
    found = known(path, "m", [str(k) for k in range(count)])
    assert sorted(map(int, found)) == list(range(0, count, 2))


def _keep_some(arguments: tuple[Path, int]) -> None:
    path, start = arguments
    for k in range(start, start + 20):
        keep(path, "m", {str(k): vector(k)})


def test_processes_share_the_file(tmp_path):
    path = tmp_path / "f"
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(_keep_some, [(path, s) for s in (0, 20, 10, 30)]))
    assert len(known(path, "m", [str(k) for k in range(50)])) == 50


def test_deleted_file_is_made_anew(tmp_path):
    path = tmp_path / "f"
    keep(path, "m", {"a": vector(1)})
    path.unlink()
    assert known(path, "m", ["a"]) == {}
    keep(path, "m", {"a": vector(1)})
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM vectors").fetchone() == (1,)
