import numpy as np
import pytest
from PIL import Image

from genie.classify.backbone import embed
from genie.classify.examples import Examples
from genie.classify.training import copies, mixed, shortfall, softened
from genie.classify.transforms import COPIERS, MIXERS, Mixture, pixel_and_patch_mix
from genie.plan.methods import METHODS


def test_shortfall_is_the_number_of_images_that_were_not_generated():
    assert shortfall({"a": 4, "b": 2}, ["a", "b", "b"]) == {"a": 3}


@pytest.mark.parametrize("name", COPIERS)
def test_copies_of_every_copier_are_as_many_as_requested(name, backbone, pictures):
    examples = Examples(pictures, embed(pictures, model=backbone), list("aabbb"))
    made = copies(examples, {"a": 3, "b": 1}, COPIERS[name], backbone=backbone, seed=0)
    weights = np.ones(len(made.labels)) if made.weights is None else made.weights
    assert weights.sum() == pytest.approx(4)
    assert len({image.tobytes() for image in made.images}) <= 4
    assert made.embeddings.shape == (len(made.labels), examples.embeddings.shape[1])
    nothing = copies(examples, {}, COPIERS[name], backbone=backbone, seed=0)
    assert not nothing.labels


def test_class_with_enough_generated_images_has_no_shortfall():
    assert shortfall({"a": 2}, ["a", "a", "a"]) == {}


def test_mixtures_pair_each_generated_image_with_real_ones_of_its_class_in_turn(backbone):
    def examples(greys: list[int], labels: str) -> Examples:
        pictures = [Image.new("RGB", (32, 32), (g,) * 3) for g in greys]
        return Examples(pictures, embed(pictures, model=backbone), list(labels))

    real = examples([0, 40, 80], "aab")
    generated = examples([200, 220, 240, 255], "aaab")
    made, record = mixed(generated, real, pixel_and_patch_mix, backbone=backbone, seed=0)
    assert made.labels == [*"aaab", *"aaab"]
    assert made.weights is not None
    assert made.weights[:4] + made.weights[4:] == pytest.approx(np.ones(4))
    assert list(record["level"]) == ["pixel", "patch", "pixel", "patch"]
    assert list(record["share"]) == pytest.approx(made.weights[:4])
    partners = [0, 40, 0, 80]
    for i, (image, g) in enumerate(zip(made.images[:4], [200, 220, 240, 255], strict=True)):
        blend = made.weights[i] * g + (1 - made.weights[i]) * partners[i]
        assert np.asarray(image).mean() == pytest.approx(blend, abs=0.6)


def test_soft_labels_share_one_image_between_two_classes(backbone, pictures):
    examples = Examples(pictures, embed(pictures, model=backbone), list("aabbb"))
    made = softened(examples, list("bbbba"), np.array([0.7, 1, 1, 1, 0.2]))
    assert [*made.labels] == [*"aabbb", "b", "a"]
    assert made.weights == pytest.approx([0.7, 1, 1, 1, 0.2, 0.3, 0.8])
    assert [made.images[5], made.images[6]] == [pictures[0], pictures[4]]
    assert np.array_equal(made.embeddings[5:], examples.embeddings[[0, 4]])


def test_hard_labels_stay_as_they_are(backbone, pictures):
    examples = Examples(pictures, embed(pictures, model=backbone), list("aabbb"))
    assert softened(examples, [""] * 5, np.ones(5)) is examples


def test_mixtures_with_sources_pair_each_image_with_its_own(backbone):
    def examples(greys: list[int], labels: str) -> Examples:
        pictures = [Image.new("RGB", (32, 32), (g,) * 3) for g in greys]
        return Examples(pictures, embed(pictures, model=backbone), list(labels))

    def second(generated, real, seed):
        return [Mixture(image, "half", 1.0) for image in real]

    real, generated = examples([0, 40, 80], "aab"), examples([200, 220], "aa")
    own = examples([40, 0], "aa")
    made, _ = mixed(generated, real, second, backbone=backbone, seed=0, sources=own)
    assert [image.getpixel((0, 0))[0] for image in made.images] == [40, 0]
    assert made.labels == ["a", "a"]  # a share of 1 leaves nothing for a second label
    assert made.weights == pytest.approx([1, 1])


def test_pictures_of_different_sizes_are_copied_and_mixed_at_the_backbones_size(backbone):
    pictures = [Image.new("RGB", size, (90, 90, 90)) for size in ((40, 30), (20, 64), (32, 32))]
    examples = Examples(pictures, embed(pictures, model=backbone), list("abb"))
    counts = {"a": 1, "b": 2}
    for copier in set(COPIERS.values()):
        made = copies(examples, counts, copier, backbone=backbone, seed=0)
        assert {image.size for image in made.images} == {(32, 32)}
    large = [Image.new("RGB", (64, 64), (200, 200, 200))]
    generated = Examples(large, embed(large, model=backbone), ["b"])
    mixtures, _ = mixed(generated, examples, pixel_and_patch_mix, backbone=backbone, seed=0)
    assert {image.size for image in mixtures.images} == {(32, 32)}


WEAK = ("cap2aug", "da-fusion", "diff-mix", "diffcore-mix", "diffusemix", "genie", "img2img")
WEAK += ("real-guidance", "txt2img", "weak")


def test_every_method_has_a_copier_and_mixers_belong_to_methods():
    copier = {name: method.copier for name, method in METHODS.items()}
    others = {"cutmix": "cutmix", "mixup": "mixup", "none": "unchanged", "strong": "strong"}
    assert copier == dict.fromkeys(WEAK, "weak") | others
    assert set(copier.values()) == set(COPIERS)
    mixer = {name: method.mixer for name, method in METHODS.items() if method.mixer}
    assert mixer == {"diffcore-mix": "pixel-and-patch", "diffusemix": "half-and-fractal"}
    assert set(mixer.values()) == set(MIXERS)
    assert [name for name, method in METHODS.items() if method.mixes_with_sources] == ["diffusemix"]
