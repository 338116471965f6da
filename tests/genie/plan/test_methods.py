"""Every method plans what it promises, and is one object of the registry."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genie.choose.filters import RULES
from genie.classify.backbone import load_backbone
from genie.classify.examples import Examples
from genie.classify.training import copies
from genie.classify.transforms import COPIERS, MIXERS
from genie.core.errors import InvalidValueError
from genie.data.prompts import Prompts, Wording
from genie.plan.augmentation import Augmentation
from genie.plan.levels import Levels
from genie.plan.methods import (
    METHODS,
    STYLES,
    Method,
    noise_ratios,
    plan_slots,
    ratio_note,
    target_weights,
)
from genie.plan.requests import noise_seed
from genie.plan.tasks import TaskSpec

LABELS = ("bag", "coat", "dress", "shirt")


def support_of(sizes):
    rows = [(f"{label}-{i}", label) for label, n in sizes.items() for i in range(n)]
    return pd.DataFrame(rows, columns=["image_id", "label"])


def sources_of(ranked):
    rows = [(t, s, rank) for t, classes in ranked.items() for rank, s in enumerate(classes, 1)]
    return pd.DataFrame(rows, columns=["target", "source", "rank"])


SUPPORT = support_of(dict.fromkeys(LABELS, 3))
SOURCES = sources_of({"coat": ["shirt", "dress"], "shirt": ["coat"]})


def task_of(support=SUPPORT, sources=SOURCES, **changes) -> TaskSpec:
    options = {
        "per_class": {"coat": 4},
        "ratios": (0.5, 0.7, 0.9),
        "prompts": Prompts(negative="blurry"),
        "seed": 0,
    }
    return TaskSpec(support, sources, **(options | changes))


def plan(method, support=SUPPORT, sources=SOURCES, **changes):
    return METHODS[method].plan(task_of(support, sources, **changes))


GENERATING = ["genie", "img2img", "txt2img", "diffcore-mix", "diff-mix", "real-guidance"]


@given(
    method=st.sampled_from(GENERATING),
    sizes=st.fixed_dictionaries({label: st.integers(1, 4) for label in LABELS}),
    per_class=st.dictionaries(st.sampled_from(LABELS), st.integers(0, 15)),
    ratios=st.sampled_from([(0.7,), (0.5, 0.9), (0.5, 0.6, 0.7, 0.8, 0.9)]),
    seed=st.integers(0, 3),
)
def test_every_target_gets_exactly_its_number_of_distinct_images(
    method, sizes, per_class, ratios, seed
):
    ranked = {t: [s for s in LABELS if s != t] for t in LABELS}
    planned = plan(
        method,
        support_of(sizes),
        sources_of(ranked),
        per_class=per_class,
        ratios=ratios,
        seed=seed,
    )
    targets = [levels[0].target_label for levels in planned]
    assert {t: targets.count(t) for t in per_class} == per_class
    assert len({(c[0].target_label, noise_seed(c[0])) for c in planned}) == len(planned)
    for levels in planned:
        assert len({noise_seed(q) for q in levels}) == 1
        assert all(a.r < b.r for a, b in pairwise(levels))


def test_none_plans_nothing():
    assert plan("none") == []


def test_genie_takes_source_classes_in_rotation_most_confused_first():
    planned = plan("genie", per_class={"coat": 8})
    assert [c[0].source_label for c in planned] == ["shirt", "dress"] * 4
    assert [c[0].replicate for c in planned] == [0] * 6 + [1] * 2
    assert len({c[0].source_id for c in planned[:6]}) == 6
    assert planned[6][0].source_id == planned[0][0].source_id
    assert {c[0].prompt for c in planned} == {"a photo of a coat"}


def test_rank_decides_not_the_order_of_rows():
    assert plan("genie", sources=SOURCES.iloc[::-1]) == plan("genie")


def test_row_order_of_the_support_changes_nothing():
    assert plan("genie", support=SUPPORT.sample(frac=1, random_state=0)) == plan("genie")


def test_levels_ascend_in_r():
    assert [q.r for q in plan("genie", ratios=(0.9, 0.5, 0.7))[0]] == [0.5, 0.7, 0.9]


def test_seed_decides_the_order_of_source_images():
    support = support_of(dict.fromkeys(LABELS, 20))
    first = [c[0].source_id for c in plan("genie", support, seed=0)]
    second = [c[0].source_id for c in plan("genie", support, seed=1)]
    assert first != second


@pytest.mark.parametrize("method", GENERATING)
def test_equal_tasks_share_all_requests(method):
    assert plan(method, number=0) == plan(method, number=7)


@pytest.mark.parametrize("method", GENERATING)
def test_tasks_whose_target_has_other_images_share_no_noise(method):
    """Also where they share all sources, as the shirts and dresses here."""
    other = SUPPORT.assign(image_id=SUPPORT["image_id"].str.replace("coat", "other-coat"))
    noise, others = ({noise_seed(c[0]) for c in plan(method, s)} for s in (SUPPORT, other))
    assert len(noise) == len(others) == 4
    assert not noise & others


def test_images_of_other_classes_do_not_change_an_image():
    """A new picture of a bag renders nothing anew where bags are neither source nor target."""
    more = pd.concat([SUPPORT, support_of({"bag": 5}).tail(2)])
    assert plan("genie", more) == plan("genie")


def test_img2img_takes_the_target_itself_as_source():
    planned = plan("img2img", ratios=(0.3,))
    assert {c[0].source_label for c in planned} == {"coat"}
    assert [c[0].replicate for c in planned] == [0, 0, 0, 1]


def test_txt2img_has_no_source_and_starts_from_pure_noise():
    planned = plan("txt2img")
    assert all(len(c) == 1 for c in planned)
    assert {(c[0].source_id, c[0].source_label, c[0].r) for c in planned} == {(None, None, 1.0)}
    assert [c[0].replicate for c in planned] == [0, 1, 2, 3]


@given(sizes=st.fixed_dictionaries({label: st.integers(1, 6) for label in LABELS}))
def test_all_sources_take_every_image_of_every_other_class_once(sizes):
    """Also where classes differ in size, so that taking turns would repeat the smaller ones."""
    support = support_of(sizes)
    ranked = sources_of({"coat": [c for c in LABELS if c != "coat"]})
    count = sum(sizes.values()) - sizes["coat"]
    planned = plan("genie", support, ranked, per_class={"coat": count}, every_source=True)
    others = support.loc[support["label"] != "coat", "image_id"]
    assert sorted(c[0].source_id for c in planned) == sorted(others)


def test_source_class_without_images_is_an_error():
    with pytest.raises(InvalidValueError, match="'dress' has none in task 0"):
        plan("genie", support=SUPPORT[SUPPORT["label"] != "dress"])


def test_target_without_source_class_is_an_error():
    with pytest.raises(InvalidValueError, match="'bag' has none in task 3"):
        plan("genie", per_class={"bag": 1}, number=3)


def test_templates_take_turns_by_image_not_by_position():
    numbered = Prompts(templates=("0 {class}", "1 {class}", "2 {class}"))
    wide = plan("genie", per_class={"coat": 6}, prompts=numbered)
    assert {len({q.prompt for q in group}) for group in wide} == {1}
    assert len({group[0].prompt for group in wide}) > 1
    fewer = SUPPORT[SUPPORT["image_id"] != "shirt-0"]
    after = {
        g[0].source_id: g[0].prompt
        for g in plan("genie", fewer, per_class={"coat": 4}, prompts=numbered)
    }
    before = {g[0].source_id: g[0].prompt for g in wide if g[0].replicate == 0}
    shared = set(after) & set(before)
    assert shared
    assert all(after[i] == before[i] for i in shared)
    text = plan("txt2img", per_class={"coat": 6}, prompts=numbered)
    assert [g[0].prompt[0] for g in text] == list("012012")


def test_copiers_mixers_and_rules_that_methods_name_exist_and_each_is_used():
    methods = METHODS.values()
    assert {method.copier for method in methods} == set(COPIERS)
    assert {method.mixer for method in methods} - {None} == set(MIXERS)
    assert {method.rule for method in methods} <= set(RULES)


@pytest.mark.parametrize(
    ("method", "copier", "mixer", "with_sources", "rule"),
    [
        ("none", "unchanged", None, False, "none"),
        ("weak", "weak", None, False, "none"),
        ("strong", "strong", None, False, "none"),
        ("cutmix", "cutmix", None, False, "none"),
        ("mixup", "mixup", None, False, "none"),
        ("img2img", "weak", None, False, "none"),
        ("txt2img", "weak", None, False, "none"),
        ("da-fusion", "weak", None, False, "none"),
        ("cap2aug", "weak", None, False, "none"),
        ("diff-mix", "weak", None, False, "none"),
        ("diffusemix", "weak", "half-and-fractal", True, "none"),
        ("real-guidance", "weak", None, False, "clip"),
        ("diffcore-mix", "weak", "pixel-and-patch", False, "cosine"),
        ("genie", "weak", None, False, "none"),
    ],
)
def test_a_method_holds_its_copier_mixer_and_filter(method, copier, mixer, with_sources, rule):
    found = METHODS[method]
    assert (found.copier, found.mixer, found.rule) == (copier, mixer, rule)
    assert found.mixes_with_sources == with_sources


def test_every_method_is_described_in_words():
    assert all(method.adds and method.use for method in METHODS.values())
    assert [name for name, method in METHODS.items() if not method.renders] == [
        "none",
        "weak",
        "strong",
        "cutmix",
        "mixup",
    ]


@pytest.mark.parametrize(
    ("method", "r", "ratios"),
    [
        ("genie", "ada", (0.5, 0.6, 0.7, 0.8, 0.9)),
        ("genie", 0.7, (0.7,)),
        ("img2img", "ada", (0.7,)),
        ("img2img", 0.3, (0.3,)),
        ("da-fusion", "ada", (0.7,)),
        ("cap2aug", "ada", (0.7,)),
        ("diff-mix", "ada", (0.8,)),
        ("diffusemix", "ada", (0.5,)),
        ("real-guidance", "ada", ()),
        ("real-guidance", 0.3, (0.3,)),
    ],
)
def test_methods_that_compare_no_levels_render_one_ratio(method, r, ratios):
    assert noise_ratios(METHODS[method], r, Levels(0.5, 0.9, 5)) == ratios
    assert Augmentation(method=method, r=r).ratios == ratios


@pytest.mark.parametrize(
    ("method", "r", "note"),
    [
        ("genie", "ada", ""),
        ("genie", 0.7, ""),
        ("img2img", 0.7, ""),
        ("img2img", "ada", "; `r` is 0.7 for img2img, which compares no levels"),
        (
            "real-guidance",
            "ada",
            "; `r` falls with the support images of a class for real-guidance",
        ),
    ],
)
def test_a_ratio_that_the_method_replaces_is_noted(method, r, note):
    assert ratio_note(method, r) == note


def test_diff_mix_takes_images_of_all_other_classes_at_random():
    planned = plan("diff-mix", per_class={"coat": 9, "bag": 2}, ratios=(0.8,))
    coats = [one[0] for one in planned if one[0].target_label == "coat"]
    assert sorted({q.source_id for q in coats}) == sorted(SUPPORT.image_id[SUPPORT.label != "coat"])
    assert all(q.source_label == q.source_id.split("-")[0] for q in coats)
    order = [q.source_label for q in coats]
    assert order != sorted(order)
    reversed_rows = SUPPORT.iloc[::-1]
    assert (
        plan("diff-mix", reversed_rows, per_class={"coat": 9, "bag": 2}, ratios=(0.8,)) == planned
    )


def test_diff_mix_without_another_class_is_an_error_with_a_remedy():
    with pytest.raises(InvalidValueError, match=r"images of another class than 'coat'") as error:
        plan("diff-mix", support_of({"coat": 3}))
    assert error.value.remedy == "choose img2img, or a data set with two classes or more"


@pytest.mark.parametrize(
    ("shots", "r"), [(1, 0.5), (2, 0.4), (3, 0.4), (5, 0.35), (8, 0.2), (15, 0.2), (100, 0.15)]
)
def test_real_guidance_adds_less_noise_where_there_are_more_images(shots, r):
    support = support_of({"coat": shots, "bag": 1})
    planned = plan("real-guidance", support, per_class={"coat": 2, "bag": 1}, ratios=())
    assert [(q.target_label, q.source_label, q.r) for (q,) in planned] == [
        ("coat", "coat", r),
        ("coat", "coat", r),
        ("bag", "bag", 0.5),
    ]


def test_soft_labels_follow_the_noise_ratio_for_diff_mix_alone():
    r = np.array([0.3, 0.8, 1.0])
    assert target_weights(METHODS["diff-mix"], r) == pytest.approx([0.3817, 0.8365, 1], abs=1e-4)
    others = [method for name, method in METHODS.items() if name != "diff-mix"]
    assert all(target_weights(method, r).tolist() == [1, 1, 1] for method in others)


def test_tasks_are_planned_one_by_one_with_their_own_prompts():
    tasks = [
        task_of(number=number, prompts=Prompts((f"{number} {{class}}",)), per_class={"coat": count})
        for number, count in ((3, 2), (5, 3))
    ]
    slots = plan_slots(METHODS["genie"], tasks)
    assert [slot.task for slot in slots] == [3] * 2 + [5] * 3
    assert [{q.prompt for q in slot.levels} for slot in slots] == (
        [{"3 coat"}] * 2 + [{"5 coat"}] * 3
    )


def test_diffusemix_takes_its_styles_in_turn():
    templates = METHODS["diffusemix"].templates
    assert len(templates) == len(STYLES) == 9
    planned = plan("diffusemix", per_class={"coat": 3}, prompts=Prompts(templates), ratios=(0.5,))
    assert {q.prompt.rpartition(", ")[0] for (q,) in planned} == {"a photo of a coat"}
    assert {q.prompt.rpartition(", ")[2] for (q,) in planned} <= set(STYLES)


def test_captions_and_contexts_are_the_prompts_of_their_methods():
    captions = {f"coat-{i}": f"coat number {i}" for i in range(3)}
    planned = plan("cap2aug", per_class={"coat": 3}, prompts=Prompts(captions=captions))
    assert {levels[0].prompt for levels in planned} == set(captions.values())
    contexts = {"": [Wording("a {class} outdoors", "blurry"), Wording("a {class} at night", "")]}
    drawn = plan("diffcore-mix", per_class={"coat": 2}, prompts=Prompts(contexts=contexts))
    assert [(q.prompt, q.negative_prompt) for (q,) in drawn] == [
        ("a coat outdoors", "blurry"),
        ("a coat at night", ""),
    ]


def test_a_method_is_one_entry_of_one_registry(monkeypatch):
    def reversed_pairs(task: TaskSpec) -> list:
        """The target's images under every other class's prompt."""
        swapped = task.sources.rename(columns={"target": "source", "source": "target"})
        per_class = {str(c): 1 for c in swapped["target"].unique()}
        return METHODS["genie"].plan(replace(task, sources=swapped, per_class=per_class))

    toy = Method(reversed_pairs, adds="the reverse", use="in a test", ratio=0.4, copier="unchanged")
    monkeypatch.setitem(METHODS, "toy", toy)
    settings = Augmentation(method="toy")
    assert (settings.chosen_method, settings.ratios, settings.rule) == (toy, (0.4,), "none")
    found = plan_slots(toy, [task_of(number=3, ratios=settings.ratios)])
    pairs = {(slot.levels[0].source_label, slot.levels[0].target_label) for slot in found}
    assert pairs == {("coat", "shirt"), ("coat", "dress"), ("shirt", "coat")}
    assert {q.r for slot in found for q in slot.levels} == {0.4}
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    real = Examples(pictures, np.zeros((2, 4)), ["coat", "bag"])
    backbone = load_backbone(Path("zoo/backbone"))
    filled = copies(real, {"coat": 3}, COPIERS[toy.copier], backbone=backbone, seed=0)
    assert list(filled.labels) == ["coat"] * 3
    assert {image.getpixel((0, 0)) for image in filled.images} == {(255, 0, 0)}
