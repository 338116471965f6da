"""The search for r*, against Algorithm 1, and its previews."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from genie.choose.search import (
    PREVIEW_STEPS,
    Landmarks,
    as_table,
    exact,
    kept_images,
    landmarks_of,
    predicted_target,
    preview,
    preview_steps,
    search,
)
from genie.classify.backbone import ImageModel, embed, load_backbone
from genie.classify.classifier import FINETUNE, Classifier, fit, predict
from genie.classify.examples import Examples
from genie.classify.settings import TrainingSettings
from genie.core.errors import InvalidValueError
from genie.core.tables import MEMBERS, TRAJECTORIES, read_table
from genie.data.augmented_set import AugmentedSet, Provenance, read_set, set_of
from genie.data.images import decode_image, encode_png
from genie.plan.levels import Levels
from genie.plan.requests import Request, Slot, distinct
from genie.render.engine import LocalEngine
from genie.render.loop import Renderer
from genie.render.store import DiskStore, save_image
from tests.genie.render.engines import FakeEngine, with_info

FULL, QUICK = 50, 10
SOURCE, TARGET = np.zeros(3), np.array([1.0, 0.0, 0.0])
PROVENANCE = Provenance("genie", 3.0, "none", "none", "none")


class MeanColour(torch.nn.Module):
    """A backbone whose embedding is the direction of the mean colour."""

    def forward(self, batch: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(pooler_output=None, last_hidden_state=batch)


def colours() -> ImageModel:
    zero, one = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    return ImageModel(MeanColour(), (8, 8), lambda image: image, zero, one, "cpu", "", None)


def at(position: float) -> Image.Image:
    """An image whose embedding has this position between `SOURCE` and `TARGET`."""
    colour = (round(255 * position), round(255 * (1 - position**2) ** 0.5), 0)
    return Image.new("RGB", (32, 32), colour)


def slot_of(ratios=(0.5, 0.7, 0.9), *, source="s", task=0, **changes) -> Slot:
    first = Request(source, "bag", "coat", "a photo of a coat", "", 0.5, 0, 0, "")
    return Slot(task, tuple(replace(first, r=r, **changes) for r in ratios))


def landmarks(**changes) -> Landmarks:
    ends = {"sources": {"s": SOURCE, "q": SOURCE}, "targets": {(0, "coat"): TARGET}}
    return Landmarks(colours(), **(ends | changes))


class Refusing(FakeEngine):
    """Has nothing to render, because a test has put all images into the store."""

    def render(self, batches, sources, steps):
        pytest.fail("rendered an image that was not stored")


@pytest.fixture
def renderer(tmp_path) -> Renderer:
    """A renderer that has only what a test puts into its store."""
    black = encode_png(Image.new("RGB", (32, 32)))
    sources = {"s": black, "q": black}
    return Renderer(Refusing(steps=FULL), DiskStore(tmp_path / "store"), sources)


def put(renderer: Renderer, slot: Slot, positions, *, steps=FULL, levels=None) -> list[str]:
    """Store images of the levels (all of them) at the given positions; return their keys."""
    levels = range(len(slot.levels)) if levels is None else levels
    keys = [renderer.key(slot.levels[level], steps) for level in levels]
    for key, position in zip(keys, positions, strict=True):
        save_image(renderer.store.root, key, encode_png(at(position)))
    return keys


def test_level_after_the_largest_jump_is_chosen(renderer):
    keys = put(renderer, slot_of(), [0.1, 0.2, 0.8])
    (found,), cost = exact([slot_of()], renderer, landmarks())
    assert found.chosen == 2
    assert found.keys == tuple(keys)
    assert found.steps == (FULL,) * 3
    assert found.positions == pytest.approx([0.1, 0.2, 0.8], abs=0.01)
    assert found.shift_ratio == pytest.approx(6, rel=0.1)
    assert found.embeddings.shape == (3, 3)
    assert (cost.needed, cost.found, cost.rendered) == (3, 3, 0)


def test_a_single_level_is_chosen(renderer):
    put(renderer, slot_of((0.7,)), [0.4])
    (found,), _ = exact([slot_of((0.7,))], renderer, landmarks())
    assert found.chosen == 0
    assert found.positions == pytest.approx([0.4], abs=0.01)
    assert np.isnan(found.shift_ratio)


def test_without_a_source_there_is_no_position(renderer):
    drawn = slot_of((1.0,), source=None, source_label=None)
    put(renderer, drawn, [0.4])
    (found,), _ = exact([drawn], renderer, landmarks())
    assert found.chosen == 0
    assert np.isnan(found.positions).all()


def test_coinciding_source_and_target_are_an_error_that_names_the_pair(renderer):
    put(renderer, slot_of(), [0.1, 0.2, 0.8])
    with pytest.raises(InvalidValueError, match=r"bag .s. → coat.*must differ to span an axis"):
        exact([slot_of()], renderer, landmarks(sources={"s": TARGET}))


@pytest.mark.parametrize("label", ["coat", "bag"])
def test_single_level_without_an_axis_has_no_position(renderer, label):
    slot = slot_of((0.7,), source_label=label)
    put(renderer, slot, [0.4])
    (found,), _ = exact([slot], renderer, landmarks(sources={"s": TARGET}))
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
        slot_of((0.4, 0.6, 0.8, 1.0), source=row.image_id, task=row.task)
        for row in support[support["label"] == "bag"].itertuples()
    ]
    rows = support.groupby(["task", "label"])["image_id"]
    engine = LocalEngine(with_info(sd, steps=5, guidance_scale=3.0, batch_size=16))
    renderer = Renderer(engine, DiskStore(tmp_path), source_images)
    found, cost = exact(plan, renderer, landmarks_of(support, vectors, backbone))
    assert cost.rendered == len(distinct(plan))
    chosen = set()
    for trajectory, slot in zip(found, plan, strict=True):
        assert (trajectory.task, trajectory.slot) == (slot.task, slot)
        z_target = np.mean([vectors[i] for i in rows.get_group((slot.task, "coat"))], axis=0)
        z = embed([renderer.store.image(key) for key in trajectory.keys], model=backbone)
        assert trajectory.chosen == algorithm_1(vectors[slot.levels[0].source_id], z_target, z)
        assert np.array_equal(trajectory.embeddings, z)
        chosen.add(trajectory.chosen)
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
    slot = slot_of(source="q")
    quick = put(renderer, slot, [0.0, 0.1, 0.9], steps=QUICK)
    (full,) = put(renderer, slot, [0.5], levels=[2])  # nothing else is there to be rendered
    (found,), cost = preview([slot], renderer, landmarks(), steps=QUICK)
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
    unclear, clear = slot_of(), slot_of(source="q")
    put(renderer, unclear, [0.0, 0.46, 0.95], steps=QUICK)
    put(renderer, clear, [0.0, 0.1, 0.9], steps=QUICK)
    full = put(renderer, unclear, [0.1, 0.7, 0.95])
    put(renderer, clear, [0.9], levels=[2])
    (first, second), cost = preview([unclear, clear], renderer, landmarks(), steps=QUICK)
    assert first.chosen == 1
    assert first.keys == tuple(full)
    assert first.steps == (FULL,) * 3
    assert first.positions == pytest.approx([0.1, 0.7, 0.95], abs=0.01)
    assert first.shift_ratio == pytest.approx(0.49 / 0.46, abs=0.03)
    assert (second.chosen, second.steps) == (2, (QUICK, QUICK, FULL))
    assert cost.needed == 6 + 3 + 1


def test_only_the_ends_of_the_two_largest_jumps_are_rendered_in_full(renderer):
    slot = slot_of((0.5, 0.6, 0.7, 0.8, 0.9))
    quick = put(renderer, slot, [0.0, 0.4, 0.45, 0.5, 0.9], steps=QUICK)
    full = put(renderer, slot, [0.0, 0.3, 0.2, 0.95], levels=[0, 1, 3, 4])
    (found,), _ = preview([slot], renderer, landmarks(), steps=QUICK)
    assert found.keys == (full[0], full[1], quick[2], full[2], full[3])
    assert found.steps == (FULL, FULL, QUICK, FULL, FULL)
    assert found.positions == pytest.approx([0.0, 0.3, 0.45, 0.2, 0.95], abs=0.01)
    assert found.chosen == 4


def test_the_ratio_below_which_a_preview_is_unclear_is_an_argument(renderer):
    put(renderer, slot_of(), [0.0, 0.46, 0.95], steps=QUICK)
    put(renderer, slot_of(), [0.9], levels=[2])
    (found,), _ = preview([slot_of()], renderer, landmarks(), steps=QUICK, unclear=1.0)
    assert (found.chosen, found.steps) == (2, (QUICK, QUICK, FULL))


def test_images_of_two_slots_are_counted_once(renderer):
    put(renderer, slot_of(), [0.1, 0.2, 0.8])
    targets = {(task, "coat"): TARGET for task in (0, 1)}
    found, cost = exact([slot_of(), slot_of(task=1)], renderer, landmarks(targets=targets))
    assert [trajectory.task for trajectory in found] == [0, 1]
    assert found[0].keys == found[1].keys
    assert cost.needed == 3


@pytest.mark.parametrize(("full", "steps"), [(50, 10), (80, 10), (8, 8)])
def test_previews_take_no_more_steps_than_a_full_rendering(full, steps):
    assert preview_steps((0.5, 0.9), full, between=True) == steps


@pytest.mark.parametrize(("count", "steps"), [(5, 10), (9, 20), (17, 40), (41, 50)])
def test_pipelines_that_start_at_steps_only_take_the_next_multiple_that_separates_levels(
    count, steps
):
    ratios = [round(r, 12) for r in np.linspace(0.5, 0.9, count)]
    assert preview_steps(ratios, 50, between=False) == steps
    assert preview_steps(ratios, 50, between=True) == PREVIEW_STEPS == 10


@pytest.mark.parametrize(
    ("how", "full", "family", "steps"),
    [
        ("exact", FULL, "stable-diffusion", (FULL,) * 3),
        ("preview", FULL, "stable-diffusion", (QUICK, QUICK, FULL)),
        ("preview", QUICK, "stable-diffusion", (QUICK,) * 3),  # previews would save no steps
        ("preview", FULL, "generic", (QUICK, QUICK, FULL)),
    ],
)
def test_search_previews_where_that_is_set_and_saves_steps(renderer, how, full, family, steps):
    renderer = replace(renderer, engine=Refusing(steps=full, family=family))
    for count in {full, QUICK}:
        put(renderer, slot_of(), [0.1, 0.2, 0.8], steps=count)
    levels = Levels(0.5, 0.9, 3, min_position=None, search=how)
    (found,), _ = search([slot_of()], renderer, landmarks(), levels)
    assert (found.chosen, found.steps) == (2, steps)


def test_a_single_level_is_not_previewed(renderer):
    put(renderer, slot_of((0.7,)), [0.4])
    (found,), cost = search([slot_of((0.7,))], renderer, landmarks(), Levels(search="preview"))
    assert (found.chosen, found.steps, cost.needed) == (0, (FULL,), 1)


def test_search_uses_the_min_position_of_the_levels(renderer):
    put(renderer, slot_of(), [0.1, 0.6, 0.9])
    chosen = [
        search([slot_of()], renderer, landmarks(), Levels(min_position=least))[0][0].chosen
        for least in (None, 0.8)
    ]
    assert chosen == [1, 2]


def searched(renderer: Renderer):
    """Two trajectories; level 2 of the first and level 1 of the second is chosen."""
    put(renderer, slot_of(), [0.1, 0.2, 0.8])
    put(renderer, slot_of(source="q"), [0.1, 0.7, 0.8])
    return exact([slot_of(), slot_of(source="q")], renderer, landmarks())[0]


def test_kept_images_are_the_chosen_ones_labelled_by_their_targets(renderer):
    first, second = searched(renderer)
    generated = kept_images([first, replace(first, chosen=None), second], renderer)
    assert generated.labels == ["coat", "coat"]
    assert [image.getpixel((0, 0))[0] for image in generated.images] == [204, 178]
    assert generated.embeddings[:, 0] == pytest.approx([0.8, 0.7], abs=0.01)


def trained(head: str, *, swapped: bool = False) -> Classifier:
    names = ["coat", "bag"] if swapped else ["bag", "coat"]
    images = [at(0.0), at(1.0)]
    settings = TrainingSettings(
        head=head, backbone=Path("zoo/backbone"), steps=2, batch_size=2, learning_rate=1e-3
    )
    return fit(Examples(images, embed(images, model=colours()), names), settings)


def test_the_classifier_of_each_task_predicts_its_levels(renderer):
    first, second = searched(renderer)
    second = replace(second, slot=replace(second.slot, task=1))
    classifiers = {0: trained("prototype"), 1: trained("prototype", swapped=True)}
    predicted = predicted_target([second, first], classifiers, renderer)
    assert [list(p) for p in predicted] == [[True, True, False], [False, False, True]]


def test_network_predicts_from_the_images(renderer):
    classifier = trained(FINETUNE)
    found = searched(renderer)
    predicted = predicted_target(found, {0: classifier}, renderer)
    for trajectory, right in zip(found, predicted, strict=True):
        images = [renderer.store.image(key) for key in trajectory.keys]
        expected = predict(classifier, Examples(images, np.zeros((3, 1)), [""] * 3))
        assert list(right) == list(expected == "coat")


def test_table_has_a_row_per_level(renderer):
    found = searched(renderer)
    predicted = [np.array([False, True, True]), np.array([True, False, True])]
    table = as_table([found[0], replace(found[1], chosen=None)], predicted)
    assert set(TRAJECTORIES) <= set(table.columns)
    assert list(table["level"]) == [0, 1, 2] * 2
    assert list(table["source_id"]) == ["s"] * 3 + ["q"] * 3
    assert list(table["r"]) == [0.5, 0.7, 0.9] * 2
    assert list(table["key"]) == [*found[0].keys, *found[1].keys]
    assert list(table["chosen"]) == [False, False, True, False, False, False]
    assert list(table["predicted_target"]) == [False, True, True, True, False, True]
    assert list(table["position"]) == pytest.approx([0.1, 0.2, 0.8, 0.1, 0.7, 0.8], abs=0.01)


def test_set_holds_the_chosen_images_under_their_class_folder(renderer, tmp_path):
    slot = slot_of(target_label="T-shirt/top")
    keys = put(renderer, slot, [0.1, 0.2, 0.8])
    found, _ = exact([slot], renderer, landmarks(targets={(0, "T-shirt/top"): TARGET}))
    made = set_from(found, [np.zeros(3, bool)], renderer)
    made.save(tmp_path / "set")
    assert list(made.members["file_name"]) == [f"T-shirt%2Ftop/{keys[2]}.png"]
    (path,) = (tmp_path / "set").glob("*/*.png")
    assert path.read_bytes() == renderer.store.png(keys[2])


def set_from(found, predicted, renderer: Renderer) -> AugmentedSet:
    """The set of the chosen levels."""
    table = as_table(found, predicted).assign(target_weight=1.0)
    return set_of(table, PROVENANCE, png_of=renderer.store.png, classes=["coat", "bag"])


@pytest.mark.parametrize("how", [exact, preview])
def test_no_slots_are_an_empty_set(how, renderer, tmp_path):
    found, cost = how([], renderer, landmarks())
    assert found == []
    assert (cost.needed, cost.rendered) == (0, 0)
    made = set_from(found, predicted_target(found, {}, renderer), renderer)
    made.save(tmp_path)
    assert (len(made), made.members.empty) == (0, True)
    assert read_table(tmp_path / "members.csv", MEMBERS).empty
    files, pictures = read_set(tmp_path, made.members)
    assert (files, len(pictures)) == ([], 0)


@pytest.mark.parametrize(
    ("positions", "min_position", "level"),
    [
        ([0.1, 0.6, 0.7, 0.9], None, 1),  # the paper's rule
        ([0.1, 0.6, 0.7, 0.9], 0.5, 1),
        ([0.1, 0.6, 0.7, 0.9], 0.65, 2),
        ([0.1, 0.6, 0.7, 0.9], 0.95, 3),  # none is that far: the highest
        ([0.1, 0.2, 0.9, 0.5], 0.8, 2),
    ],
)
def test_chosen_level_has_at_least_the_least_position(renderer, positions, min_position, level):
    slot = slot_of((0.5, 0.6, 0.7, 0.8))
    put(renderer, slot, positions)
    (found,), _ = exact([slot], renderer, landmarks(), min_position)
    assert found.chosen == level


def test_previews_render_the_level_that_the_least_position_requires(renderer):
    slot = slot_of((0.5, 0.6, 0.7, 0.8))
    put(renderer, slot, [0.1, 0.6, 0.7, 0.9], steps=QUICK)
    put(renderer, slot, [0.9], levels=[3])
    (found,), _ = preview([slot], renderer, landmarks(), 0.8, steps=QUICK)
    assert (found.chosen, found.steps) == (3, (QUICK, QUICK, QUICK, FULL))


def test_unclear_previews_are_decided_among_full_renderings_that_reach_the_least_position(renderer):
    """In full, the third level does not reach the least position, and the fourth is chosen."""
    slot = slot_of((0.5, 0.6, 0.7, 0.8))
    put(renderer, slot, [0.0, 0.4, 0.8, 0.9], steps=QUICK)
    put(renderer, slot, [0.0, 0.4, 0.75, 0.9])
    (found,), _ = preview([slot], renderer, landmarks(), 0.85, steps=QUICK, unclear=10)
    assert found.chosen == 3
    assert found.steps == (FULL,) * 4
