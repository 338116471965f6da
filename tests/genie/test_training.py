from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genie.backbones import embed, load_backbone
from genie.classifiers import Examples
from genie.methods import METHODS
from genie.training import copies, generated_per_class, shortfall

LABELS = ["a"] * 3 + ["b"] * 25


def test_every_class_gets_the_same_number():
    wanted = generated_per_class(LABELS, per_class=4, classes="all", every_source=False)
    assert wanted == {"a": 4, "b": 4}


def test_few_leaves_out_classes_with_twenty_images_or_more():
    wanted = generated_per_class(LABELS, per_class=4, classes="few", every_source=False)
    assert wanted == {"a": 4}


def test_every_source_gives_one_image_per_image_of_the_other_classes():
    wanted = generated_per_class(LABELS, per_class=4, classes="all", every_source=True)
    assert wanted == {"a": 25, "b": 3}


def test_shortfall_is_what_generation_left_out():
    assert shortfall({"a": 4, "b": 2}, ["a", "b", "b"]) == {"a": 3}


@pytest.mark.parametrize("name", METHODS)
def test_copies_are_as_many_as_wanted_by_every_method(name):
    backbone = load_backbone(Path("zoo/backbone"))
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(5)]
    examples = Examples(pictures, embed(pictures, model=backbone), list("aabbb"))
    made = copies(examples, {"a": 3, "b": 1}, METHODS[name].fill, backbone=backbone, seed=0)
    weights = np.ones(len(made.labels)) if made.weights is None else made.weights
    assert weights.sum() == pytest.approx(4)
    assert len({image.tobytes() for image in made.images}) <= 4
    assert made.embeddings.shape == (len(made.labels), examples.embeddings.shape[1])
    nothing = copies(examples, {}, METHODS[name].fill, backbone=backbone, seed=0)
    assert not nothing.labels


def test_generated_images_count_towards_what_is_wanted():
    assert shortfall({"a": 2}, ["a", "a", "a"]) == {}
