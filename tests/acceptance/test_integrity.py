"""Flipped bits in many images, with the commands that people type."""

import random
from pathlib import Path

from tests.scratch import call, contents
from tests.tracked import flip_bit, make_tracked

COUNT = 100


def test_every_flipped_bit_is_found_and_healed(tmp_path: Path) -> None:
    """100 images of the set and 100 of the store; every second one keeps its time."""
    place = make_tracked(tmp_path / "place", images=120)
    before = contents(place / "data/augmented")
    draw = random.Random(0)
    images = draw.sample(sorted((place / "data/augmented").glob("*/*.png")), COUNT)
    stored = draw.sample(sorted((place / ".genie/store").glob("*/*.png")), COUNT)
    damaged = [*images, *stored]
    for number, path in enumerate(damaged):
        flip_bit(path, draw, keep_time=number % 2 == 0)
    said = call(place, "sh", "-c", "genie verify || true")
    told = {
        place / line.split(":")[0] for line in said.splitlines() if line.startswith(("data", "."))
    }
    assert told == set(damaged)
    call(place, "genie", "verify", "--repair")
    assert contents(place / "data/augmented") == before
    assert "up to date" in call(place, "dvc", "status")
    assert "agree" in call(place, "genie", "verify")
