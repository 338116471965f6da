"""Images that are loaded when they are asked for."""

import gc
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genie.data.pictures import Pictures, joined, spooled


def picture(level: int) -> Image.Image:
    return Image.fromarray(np.full((3, 5, 3), level, np.uint8))


def level_of(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


def test_an_image_is_loaded_on_each_access_and_only_then():
    asked: list[int] = []

    def load(key: int) -> Image.Image:
        asked.append(key)
        return picture(key)

    images = Pictures(load, [7, 8, 9])
    part = images[1:]
    assert (len(images), len(part), asked) == (3, 2, [])
    assert [level_of(part[0]), level_of(images[-1]), level_of(part[0])] == [8, 9, 8]
    assert asked == [8, 9, 8]


def test_iteration_ends_after_the_last_image():
    assert [level_of(image) for image in Pictures(picture, range(3))] == [0, 1, 2]


@given(st.lists(st.lists(st.integers(0, 255), max_size=4), max_size=4))
def test_joined_sequences_behave_like_concatenated_lists(parts: list[list[int]]):
    images = joined([picture(level) for level in part] for part in parts)
    assert [level_of(image) for image in images] == [level for part in parts for level in part]


@given(st.lists(st.integers(0, 255), min_size=1, max_size=6), st.data())
def test_spooled_images_come_back_unchanged_in_any_order(levels: list[int], data: st.DataObject):
    images = spooled(picture(level) for level in levels)
    order = data.draw(st.permutations(range(len(levels))))
    assert [images[i].size for i in order] == [(5, 3)] * len(levels)
    assert [level_of(images[i]) for i in order] == [levels[i] for i in order]


def test_spooling_no_images_gives_an_empty_sequence():
    assert list(spooled([])) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are listed in /proc")
def test_the_spool_is_closed_with_the_last_sequence_that_reads_it():
    gc.collect()  # what earlier tests left open
    before = len(os.listdir("/proc/self/fd"))
    images = spooled([picture(1), picture(2)])
    part = images[1:]
    del images
    gc.collect()
    assert level_of(part[0]) == 2
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del part
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
