"""Claims on images, against another process."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from genie.generate.claims import claims

TAKE = """
import sys
from pathlib import Path
from genie.generate.claims import claims
with claims(Path(sys.argv[1]), wide=sys.argv[2] == "wide") as held:
    print([held.take(key) for key in sys.argv[3:]])
"""


def taken_by_another(root: Path, kind: str, *keys: str) -> str:
    command = [sys.executable, "-c", TAKE, str(root), kind, *keys]
    return subprocess.check_output(command, text=True).strip()


@pytest.mark.parametrize("kind", ["wide", "narrow"])
@pytest.mark.parametrize("wide", [True, False])
def test_claimed_image_is_refused_to_another_process_until_it_is_released(tmp_path, wide, kind):
    with claims(tmp_path, wide=wide) as held:
        assert held.take("mine")
        assert taken_by_another(tmp_path, kind, "mine", "free") == "[False, True]"
        held.release("mine")
        assert taken_by_another(tmp_path, kind, "mine") == "[True]"


@pytest.mark.parametrize("wide", [True, False])
def test_claims_end_with_the_block(tmp_path, wide):
    with claims(tmp_path, wide=wide) as held:
        assert held.take("mine")
    assert taken_by_another(tmp_path, "narrow", "mine") == "[True]"


def test_a_stretch_is_held_until_its_last_image_is_released(tmp_path):
    with claims(tmp_path, wide=True) as held:
        by_place: dict[int, list[str]] = {}
        for i in range(1000):
            key = hashlib.sha256(str(i).encode()).hexdigest()
            by_place.setdefault(held._place(key), []).append(key)
        first, second = next(keys for keys in by_place.values() if len(keys) > 1)[:2]
        assert held.take(first)
        assert held.take(second)
        held.release(first)
        assert taken_by_another(tmp_path, "narrow", second) == "[False]"
        held.release(second)
        assert taken_by_another(tmp_path, "wide", first, second) == "[True, True]"


def test_many_wide_claims_are_few_locks(tmp_path):
    with claims(tmp_path, wide=True) as held:
        assert all(held.take(f"image {i}") for i in range(50_000))
        inode = str((tmp_path / ".claims").stat().st_ino)
        locks = [line for line in Path("/proc/locks").read_text().splitlines() if inode in line]
        assert 0 < len(locks) < 2000  # neighbouring stretches are one
