"""One image with all that is known of it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from genie.choose.hard_negative import hard_negative, without_positions
from genie.choose.search import Trajectory
from genie.data.images import encode_png
from genie.plan.requests import Request, Slot
from genie.render.loop import Renderer
from genie.render.store import DiskStore, save_image
from tests.genie.render.engines import STEPS, FakeEngine

FIRST = Request("s", "shirt 12", "coat", "a photo of a coat", "blurry", 0.5, 0, 0, "")
SLOT = Slot(0, tuple(replace(FIRST, r=r) for r in (0.5, 0.7, 0.9)))
COLOURS = ("red", "green", "blue")


@pytest.fixture
def renderer(tmp_path) -> Renderer:
    """A renderer whose store has a colour per level."""
    renderer = Renderer(FakeEngine(lives=0), DiskStore(tmp_path))
    for request, colour in zip(SLOT.levels, COLOURS, strict=True):
        png = encode_png(Image.new("RGB", (8, 8), colour))
        save_image(tmp_path, renderer.key(request, STEPS), png)
    return renderer


def colour_of(image: Image.Image) -> tuple[int, ...]:
    return image.getpixel((0, 0))


def test_the_image_is_the_chosen_level_among_all_that_competed(renderer):
    keys = tuple(renderer.key(request, STEPS) for request in SLOT.levels)
    positions = np.array([0.1, 0.7, 0.9])
    trajectory = Trajectory(SLOT, keys, (STEPS,) * 3, positions, np.zeros((3, 2)), 3.0, 1)
    shown = [Image.new("RGB", (8, 8))]
    found = hard_negative(trajectory, renderer, landmark="examples", examples=shown)
    assert colour_of(found.image) == colour_of(Image.new("RGB", (1, 1), "green"))
    assert (found.r, found.target, found.source) == (0.7, "coat", "shirt 12")
    assert [r for r, _ in found.levels] == [0.5, 0.7, 0.9]
    expected = [colour_of(Image.new("RGB", (1, 1), colour)) for colour in COLOURS]
    assert [colour_of(image) for _, image in found.levels] == expected
    assert (found.positions is positions, found.shift_ratio) == (True, 3.0)
    assert (found.landmark, found.examples) == ("examples", shown)
    assert (found.prompt, found.negative_prompt) == ("a photo of a coat", "blurry")
    assert found.key == keys[1]


def test_an_image_at_one_level_has_no_position_and_no_landmark(renderer):
    slot = Slot(0, SLOT.levels[2:])
    found = without_positions(slot, renderer)
    assert (found.r, found.key) == (0.9, renderer.key(slot.levels[0], STEPS))
    assert np.isnan(found.positions).tolist() == [True]
    assert np.isnan(found.shift_ratio)
    assert found.landmark is None
    assert len(found.levels) == 1
