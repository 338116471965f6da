"""Locks on images, against another process."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from genie.core.errors import FailedError
from genie.render.locks import image_locks, in_use

ACQUIRE = """
import sys
from pathlib import Path
from genie.render.locks import image_locks
with image_locks(Path(sys.argv[1]), wide=sys.argv[2] == "wide") as locks:
    print([locks.acquire(key) for key in sys.argv[3:]])
"""


def acquired_by_another(root: Path, kind: str, *keys: str) -> str:
    command = [sys.executable, "-c", ACQUIRE, str(root), kind, *keys]
    return subprocess.check_output(command, text=True).strip()


@pytest.mark.parametrize("kind", ["wide", "narrow"])
@pytest.mark.parametrize("wide", [True, False])
def test_locked_image_is_refused_to_another_process_until_it_is_released(tmp_path, wide, kind):
    with image_locks(tmp_path, wide=wide) as locks:
        assert locks.acquire("mine")
        assert acquired_by_another(tmp_path, kind, "mine", "free") == "[False, True]"
        locks.release("mine")
        assert acquired_by_another(tmp_path, kind, "mine") == "[True]"


@pytest.mark.parametrize("wide", [True, False])
def test_locks_end_with_the_block(tmp_path, wide):
    with image_locks(tmp_path, wide=wide) as locks:
        assert locks.acquire("mine")
    assert acquired_by_another(tmp_path, "narrow", "mine") == "[True]"


def test_an_image_locked_twice_is_locked_until_it_is_released_twice(tmp_path):
    with image_locks(tmp_path) as locks:
        assert locks.acquire("mine")
        assert locks.acquire("mine")
        locks.release("mine")
        assert acquired_by_another(tmp_path, "narrow", "mine") == "[False]"
        locks.release("mine")
        assert acquired_by_another(tmp_path, "narrow", "mine") == "[True]"


def test_waiting_for_a_free_image_leaves_it_free(tmp_path):
    with image_locks(tmp_path) as locks:
        locks.wait("free")
        assert acquired_by_another(tmp_path, "narrow", "free") == "[True]"


def test_a_range_stays_locked_until_its_last_image_is_released(tmp_path):
    with image_locks(tmp_path, wide=True) as locks:
        by_offset: dict[int, list[str]] = {}
        for i in range(1000):
            key = hashlib.sha256(str(i).encode()).hexdigest()
            by_offset.setdefault(locks._offset(key), []).append(key)
        first, second = next(keys for keys in by_offset.values() if len(keys) > 1)[:2]
        assert locks.acquire(first)
        assert locks.acquire(second)
        locks.release(first)
        assert acquired_by_another(tmp_path, "narrow", second) == "[False]"
        locks.release(second)
        assert acquired_by_another(tmp_path, "wide", first, second) == "[True, True]"


def test_many_wide_locks_are_few_kernel_locks(tmp_path):
    with image_locks(tmp_path, wide=True) as locks:
        assert all(locks.acquire(f"image {i}") for i in range(50_000))
        inode = str((tmp_path / ".claims").stat().st_ino)
        lines = [line for line in Path("/proc/locks").read_text().splitlines() if inode in line]
        assert 0 < len(lines) < 2000  # neighbouring stretches are one


def test_exclusive_lock_on_a_store_in_use_fails_with_a_remedy(tmp_path):
    with in_use(tmp_path), pytest.raises(FailedError) as error, in_use(tmp_path, alone=True):
        pass
    assert error.value.argument == "store"
    assert str(error.value) == f"store is in use by a run: {tmp_path}; wait until it ends"
