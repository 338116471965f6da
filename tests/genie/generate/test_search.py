from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from genie.classify.backbone import ImageModel, embed, load_backbone
from genie.classify.classifier import FINETUNE, Classifier, fit, predict
from genie.classify.examples import Examples
from genie.classify.finetune import TrainingSettings
from genie.data.augmented_set import read_set, write_set
from genie.data.images import decode_image, encode_png
from genie.errors import GenieError
from genie.generate.denoiser import Denoiser
from genie.generate.renderer import Renderer
from genie.generate.request import Request, Wanted
from genie.generate.search import (
    Landmarks,
    as_table,
    called_target,
    exact,
    kept_images,
    landmarks_of,
    preview,
    preview_steps,
)
from genie.generate.store import save_image
from genie.tables import MEMBERS, TRAJECTORIES, read_table

FULL, QUICK = 50, 10
SOURCE, TARGET = np.zeros(3), np.array([1.0, 0.0, 0.0])
PROVENANCE = dict.fromkeys(
    ("method", "guidance_scale", "scheduler", "generator", "fingerprint"), "none"
)


class MeanColour(torch.nn.Module):
    """A backbone whose embedding is the direction of the mean colour."""

    def forward(self, batch: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(pooler_output=None, last_hidden_state=batch)


def colours() -> ImageModel:
    zero, one = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    return ImageModel(MeanColour(), (8, 8), zero, one, "cpu", "", None)


def at(place: float) -> Image.Image:
    """An image whose embedding lies at this place between `SOURCE` and `TARGET`."""
    colour = (round(255 * place), round(255 * (1 - place**2) ** 0.5), 0)
    return Image.new("RGB", (32, 32), colour)


def wanted(ratios=(0.5, 0.7, 0.9), *, source="s", task=0, **changes) -> Wanted:
    first = Request(source, "bag", "coat", "a photo of a coat", "", 0.5, 0, 0, "")
    return Wanted(task, tuple(replace(first, r=r, **changes) for r in ratios))


def marks(**changes) -> Landmarks:
    ends = {"sources": {"s": SOURCE, "q": SOURCE}, "targets": {(0, "coat"): TARGET}}
    return Landmarks(colours(), **(ends | changes))


def refuse(*_: torch.Tensor) -> torch.Tensor:
    pytest.fail("rendered an image that was not asked for")


@pytest.fixture
def renderer(sd, tmp_path) -> Renderer:
    """A renderer that has only what a test puts into its store."""
    denoiser: Denoiser = refuse
    black = encode_png(Image.new("RGB", (32, 32)))
    sources = {"s": black, "q": black}
    return Renderer(replace(sd, denoiser=denoiser), FULL, 3.0, 4, sources, tmp_path / "store")


def put(renderer: Renderer, one: Wanted, places, *, steps=FULL, levels=None) -> list[str]:
    """Store images of the levels (all of them), at the given places; their keys."""
    levels = range(len(one.candidates)) if levels is None else levels
    keys = [renderer.key(one.candidates[level], steps) for level in levels]
    for key, place in zip(keys, places, strict=True):
        save_image(renderer.store, key, encode_png(at(place)))
    return keys


def test_level_after_the_largest_jump_is_chosen(renderer):
    keys = put(renderer, wanted(), [0.1, 0.2, 0.8])
    (found,), cost = exact([wanted()], renderer, marks())
    assert found.chosen == 2
    assert found.keys == tuple(keys)
    assert found.steps == (FULL,) * 3
    assert found.positions == pytest.approx([0.1, 0.2, 0.8], abs=0.01)
    assert found.shift_ratio == pytest.approx(6, rel=0.1)
    assert found.embeddings.shape == (3, 3)
    assert (cost.needed, cost.found, cost.rendered) == (3, 3, 0)


def test_a_single_level_is_taken_as_it_is(renderer):
    put(renderer, wanted((0.7,)), [0.4])
    (found,), _ = exact([wanted((0.7,))], renderer, marks())
    assert found.chosen == 0
    assert found.positions == pytest.approx([0.4], abs=0.01)
    assert np.isnan(found.shift_ratio)


def test_without_a_source_there_is_no_position(renderer):
    drawn = wanted((1.0,), source=None, source_label=None)
    put(renderer, drawn, [0.4])
    (found,), _ = exact([drawn], renderer, marks())
    assert found.chosen == 0
    assert np.isnan(found.positions).all()


def test_coinciding_source_and_target_name_the_pair(renderer):
    put(renderer, wanted(), [0.1, 0.2, 0.8])
    with pytest.raises(GenieError, match=r"bag .s. → coat"):
        exact([wanted()], renderer, marks(sources={"s": TARGET}))


@pytest.mark.parametrize("label", ["coat", "bag"])
def test_one_level_without_an_axis_goes_on_without_a_position(renderer, label):
    one = wanted((0.7,), source_label=label)
    put(renderer, one, [0.4])
    (found,), _ = exact([one], renderer, marks(sources={"s": TARGET}))
    assert found.chosen == 0
    assert np.isnan(found.positions).all()


def algorithm_1(z_source, z_target, z_levels):
    """GeNIe-Ada as the paper writes it: the index of r*."""
    axis = z_target - z_source
    d = [(z - z_source) @ axis / np.linalg.norm(axis) ** 2 for z in z_levels]
    jumps = [abs(d[m] - d[m - 1]) for m in range(1, len(d))]
    return 1 + jumps.index(max(jumps))


@pytest.fixture(scope="module")
def backbone() -> ImageModel:
    return load_backbone(Path("zoo/backbone"))


def test_exact_search_agrees_with_a_plain_loop_of_algorithm_1(
    sd, source_images, backbone, tmp_path
):
    ids = list(source_images)[:6]
    support = pd.DataFrame(
        {"task": [0] * 4 + [1] * 4, "image_id": ids[:4] + ids[2:], "label": ["bag", "coat"] * 4}
    )
    pictures = [decode_image(source_images[i]) for i in ids]
    vectors = dict(zip(ids, embed(pictures, model=backbone), strict=True))
    plan = [
        wanted((0.4, 0.6, 0.8, 1.0), source=row.image_id, task=row.task)
        for row in support[support["label"] == "bag"].itertuples()
    ]
    rows = support.groupby(["task", "label"])["image_id"]
    renderer = Renderer(sd, 5, 3.0, 16, source_images, tmp_path)
    found, cost = exact(plan, renderer, landmarks_of(support, vectors, backbone))
    assert cost.rendered == len({q for one in plan for q in one.candidates})
    chosen = set()
    for one, asked in zip(found, plan, strict=True):
        assert (one.task, one.candidates) == (asked.task, asked.candidates)
        z_target = np.mean([vectors[i] for i in rows.get_group((one.task, "coat"))], axis=0)
        z = embed([renderer.picture(key) for key in one.keys], model=backbone)
        assert one.chosen == algorithm_1(vectors[asked.candidates[0].source_id], z_target, z)
        assert np.array_equal(one.embeddings, z)
        chosen.add(one.chosen)
    assert len(chosen) > 1  # else a constant would agree


def test_landmarks_are_means_over_the_support_of_each_task():
    support = pd.DataFrame({"task": [0, 0, 1], "label": ["coat"] * 3, "image_id": ["a", "b", "b"]})
    vectors = {"a": np.array([0.0, 2.0]), "b": np.array([4.0, 0.0])}
    found = landmarks_of(support, vectors, colours())
    assert found.sources == vectors
    assert {k: v.tolist() for k, v in found.targets.items()} == {
        (0, "coat"): [2.0, 1.0],
        (1, "coat"): [4.0, 0.0],
    }


def test_clear_previews_render_only_the_chosen_level_in_full(renderer):
    one = wanted(source="q")
    quick = put(renderer, one, [0.0, 0.1, 0.9], steps=QUICK)
    (full,) = put(renderer, one, [0.5], levels=[2])  # nothing else is there to be rendered
    (found,), cost = preview([one], renderer, marks(), steps=QUICK)
    assert found.chosen == 2
    assert found.keys == (*quick[:2], full)
    assert found.steps == (QUICK, QUICK, FULL)
    # positions stay those that were compared, the embedding is that of the image that is kept
    assert found.positions == pytest.approx([0.0, 0.1, 0.9], abs=0.01)
    assert found.embeddings[2][0] == pytest.approx(0.5, abs=0.01)
    assert (cost.needed, cost.rendered) == (4, 0)
    assert cost.guided_steps_needed == 5 + 7 + 9 + 45


def test_unclear_previews_are_decided_in_full(renderer):
    # jumps of 0.46 and 0.49 are too near each other; in full the first one is the larger
    unclear, clear = wanted(), wanted(source="q")
    put(renderer, unclear, [0.0, 0.46, 0.95], steps=QUICK)
    put(renderer, clear, [0.0, 0.1, 0.9], steps=QUICK)
    full = put(renderer, unclear, [0.1, 0.7, 0.95])
    put(renderer, clear, [0.9], levels=[2])
    (first, second), cost = preview([unclear, clear], renderer, marks(), steps=QUICK)
    assert first.chosen == 1
    assert first.keys == tuple(full)
    assert first.steps == (FULL,) * 3
    assert first.positions == pytest.approx([0.1, 0.7, 0.95], abs=0.01)
    assert first.shift_ratio == pytest.approx(0.49 / 0.46, abs=0.03)
    assert (second.chosen, second.steps) == (2, (QUICK, QUICK, FULL))
    assert cost.needed == 6 + 3 + 1


def test_only_the_ends_of_the_two_largest_jumps_are_rendered_in_full(renderer):
    one = wanted((0.5, 0.6, 0.7, 0.8, 0.9))
    quick = put(renderer, one, [0.0, 0.4, 0.45, 0.5, 0.9], steps=QUICK)
    full = put(renderer, one, [0.0, 0.3, 0.2, 0.95], levels=[0, 1, 3, 4])
    (found,), _ = preview([one], renderer, marks(), steps=QUICK)
    assert found.keys == (full[0], full[1], quick[2], full[2], full[3])
    assert found.steps == (FULL, FULL, QUICK, FULL, FULL)
    assert found.positions == pytest.approx([0.0, 0.3, 0.45, 0.2, 0.95], abs=0.01)
    assert found.chosen == 4


def test_how_unclear_a_preview_may_be_is_an_argument(renderer):
    put(renderer, wanted(), [0.0, 0.46, 0.95], steps=QUICK)
    put(renderer, wanted(), [0.9], levels=[2])
    (found,), _ = preview([wanted()], renderer, marks(), steps=QUICK, unclear=1.0)
    assert (found.chosen, found.steps) == (2, (QUICK, QUICK, FULL))


def test_images_wanted_twice_are_counted_once(renderer):
    put(renderer, wanted(), [0.1, 0.2, 0.8])
    targets = {(task, "coat"): TARGET for task in (0, 1)}
    found, cost = exact([wanted(), wanted(task=1)], renderer, marks(targets=targets))
    assert [one.task for one in found] == [0, 1]
    assert found[0].keys == found[1].keys
    assert cost.needed == 3


@pytest.mark.parametrize(("full", "steps"), [(50, 10), (80, 10), (8, 8)])
def test_previews_take_no_more_steps_than_a_full_rendering(full, steps):
    assert preview_steps((0.5, 0.9), full, between=True, least=10) == steps


@pytest.mark.parametrize(("count", "steps"), [(5, 10), (9, 20), (17, 40), (41, 50)])
def test_pipelines_that_start_at_steps_only_take_the_next_multiple_that_tells_levels_apart(
    count, steps
):
    ratios = [round(r, 12) for r in np.linspace(0.5, 0.9, count)]
    assert preview_steps(ratios, 50, between=False, least=10) == steps
    assert preview_steps(ratios, 50, between=True, least=10) == 10


def searched(renderer: Renderer):
    """Two trajectories; level 2 of the first and level 1 of the second is chosen."""
    put(renderer, wanted(), [0.1, 0.2, 0.8])
    put(renderer, wanted(source="q"), [0.1, 0.7, 0.8])
    return exact([wanted(), wanted(source="q")], renderer, marks())[0]


def test_kept_images_are_the_chosen_ones_labelled_by_their_targets(renderer):
    first, second = searched(renderer)
    generated = kept_images([first, replace(first, chosen=None), second], renderer)
    assert generated.labels == ["coat", "coat"]
    assert [image.getpixel((0, 0))[0] for image in generated.images] == [204, 178]
    assert generated.embeddings[:, 0] == pytest.approx([0.8, 0.7], abs=0.01)


def settings(**changes) -> TrainingSettings:
    options = {
        "backbone": Path("zoo/backbone"), "start": "backbone", "steps": 2, "batch_size": 2,
        "learning_rate": 1e-3, "loss": "cross-entropy", "seed": 0,
    }  # fmt: skip
    return TrainingSettings(**(options | changes))


def trained(head: str, *, swapped: bool = False) -> Classifier:
    names = ["coat", "bag"] if swapped else ["bag", "coat"]
    images = [at(0.0), at(1.0)]
    return fit(head, Examples(images, embed(images, model=colours()), names), settings=settings())


def test_each_task_asks_its_own_classifier_about_every_level(renderer):
    first, second = searched(renderer)
    classifiers = {0: trained("prototype"), 1: trained("prototype", swapped=True)}
    called = called_target([replace(second, task=1), first], classifiers, renderer)
    assert [list(c) for c in called] == [[True, True, False], [False, False, True]]


def test_network_is_asked_about_the_images(renderer):
    classifier = trained(FINETUNE)
    found = searched(renderer)
    called = called_target(found, {0: classifier}, renderer)
    for one, own in zip(found, called, strict=True):
        images = [renderer.picture(key) for key in one.keys]
        expected = predict(classifier, Examples(images, np.zeros((3, 1)), [""] * 3))
        assert list(own) == list(expected == "coat")


def test_table_has_a_row_per_level(renderer):
    found = searched(renderer)
    called = [np.array([False, True, True]), np.array([True, False, True])]
    table = as_table([found[0], replace(found[1], chosen=None)], called)
    assert set(TRAJECTORIES) <= set(table.columns)
    assert list(table["level"]) == [0, 1, 2] * 2
    assert list(table["source_id"]) == ["s"] * 3 + ["q"] * 3
    assert list(table["r"]) == [0.5, 0.7, 0.9] * 2
    assert list(table["key"]) == [*found[0].keys, *found[1].keys]
    assert list(table["chosen"]) == [False, False, True, False, False, False]
    assert list(table["called_target"]) == [False, True, True, True, False, True]
    assert list(table["position"]) == pytest.approx([0.1, 0.2, 0.8, 0.1, 0.7, 0.8], abs=0.01)


def test_set_holds_the_chosen_images_under_their_class_folder(renderer, tmp_path):
    one = wanted(target_label="T-shirt/top")
    keys = put(renderer, one, [0.1, 0.2, 0.8])
    found, _ = exact([one], renderer, marks(targets={(0, "T-shirt/top"): TARGET}))
    table = as_table(found, [np.zeros(3, bool)])
    members = write_set(
        table.assign(target_weight=1.0),
        tmp_path / "set",
        provenance=PROVENANCE,
        png_of=renderer.png,
    )
    assert list(members["file_name"]) == [f"T-shirt%2Ftop/{keys[2]}.png"]
    (path,) = (tmp_path / "set").glob("*/*.png")
    assert path.read_bytes() == renderer.png(keys[2])


@pytest.mark.parametrize("search", [exact, preview])
def test_nothing_wanted_is_an_empty_set(search, renderer, tmp_path):
    found, cost = search([], renderer, marks())
    assert found == []
    assert (cost.needed, cost.rendered) == (0, 0)
    table = as_table(found, called_target(found, {}, renderer))
    members = write_set(
        table.assign(target_weight=1.0), tmp_path, provenance=PROVENANCE, png_of=renderer.png
    )
    assert members.empty
    assert read_table(tmp_path / "members.csv", MEMBERS).empty
    files, pictures = read_set(tmp_path, members)
    assert (files, len(pictures)) == ([], 0)


@pytest.mark.parametrize(
    ("places", "least", "level"),
    [
        ([0.1, 0.6, 0.7, 0.9], None, 1),  # the paper's rule
        ([0.1, 0.6, 0.7, 0.9], 0.5, 1),
        ([0.1, 0.6, 0.7, 0.9], 0.65, 2),
        ([0.1, 0.6, 0.7, 0.9], 0.95, 3),  # none stands there: the highest
        ([0.1, 0.2, 0.9, 0.5], 0.8, 2),
    ],
)
def test_chosen_level_stands_at_least_at_the_bound(renderer, places, least, level):
    one = wanted((0.5, 0.6, 0.7, 0.8))
    put(renderer, one, places)
    (found,), _ = exact([one], renderer, marks(), least=least)
    assert found.chosen == level


def test_previews_render_the_level_that_the_bound_asks_for(renderer):
    one = wanted((0.5, 0.6, 0.7, 0.8))
    put(renderer, one, [0.1, 0.6, 0.7, 0.9], steps=QUICK)
    put(renderer, one, [0.9], levels=[3])
    (found,), _ = preview([one], renderer, marks(), steps=QUICK, least=0.8)
    assert (found.chosen, found.steps) == (3, (QUICK, QUICK, QUICK, FULL))


def test_unclear_previews_are_decided_among_full_renderings_that_reach_the_bound(renderer):
    """In full, the third level does not reach the bound after all, and the fourth is taken."""
    one = wanted((0.5, 0.6, 0.7, 0.8))
    put(renderer, one, [0.0, 0.4, 0.8, 0.9], steps=QUICK)
    put(renderer, one, [0.0, 0.4, 0.75, 0.9])
    (found,), _ = preview([one], renderer, marks(), steps=QUICK, least=0.85, unclear=10)
    assert found.chosen == 3
    assert found.steps == (FULL,) * 4
