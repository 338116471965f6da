from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genie.classify.backbone import load_backbone
from genie.classify.examples import Examples
from genie.classify.training import COPIERS, MIXERS, copies
from genie.classify.transforms import unchanged_copies
from genie.data.wording import Wording
from genie.errors import GenieError
from genie.generate.methods import (
    METHODS,
    Brief,
    Method,
    noise_ratios,
    plan_tasks,
    target_weights,
)
from genie.generate.noise import noise_seed

LABELS = ("bag", "coat", "dress", "shirt")


def support_of(sizes):
    rows = [(f"{label}-{i}", label) for label, n in sizes.items() for i in range(n)]
    return pd.DataFrame(rows, columns=["image_id", "label"])


def sources_of(ranked):
    rows = [(t, s, rank) for t, classes in ranked.items() for rank, s in enumerate(classes, 1)]
    return pd.DataFrame(rows, columns=["target", "source", "rank"])


SUPPORT = support_of(dict.fromkeys(LABELS, 3))
SOURCES = sources_of({"coat": ["shirt", "dress"], "shirt": ["coat"]})


def plan(method, support=SUPPORT, sources=SOURCES, **changes):
    options = {
        "per_class": {"coat": 4},
        "every_source": False,
        "levels": (0.5, 0.7, 0.9),
        "wording": lambda name, source, turn: Wording(f"a photo of a {name}", "blurry"),
        "seed": 0,
        "task": 0,
    }
    return METHODS[method].plan(Brief(support, sources, **(options | changes)))


GENERATING = ["genie", "img2img", "txt2img", "diffcore-mix", "diff-mix", "real-guidance"]


@given(
    method=st.sampled_from(GENERATING),
    sizes=st.fixed_dictionaries({label: st.integers(1, 4) for label in LABELS}),
    wanted=st.dictionaries(st.sampled_from(LABELS), st.integers(0, 15)),
    levels=st.sampled_from([(0.7,), (0.5, 0.9), (0.5, 0.6, 0.7, 0.8, 0.9)]),
    seed=st.integers(0, 3),
)
def test_every_target_gets_exactly_its_number_of_distinct_images(
    method, sizes, wanted, levels, seed
):
    ranked = {t: [s for s in LABELS if s != t] for t in LABELS}
    planned = plan(
        method,
        support_of(sizes),
        sources_of(ranked),
        per_class=wanted,
        levels=levels,
        seed=seed,
    )
    targets = [candidates[0].target_label for candidates in planned]
    assert {t: targets.count(t) for t in wanted} == wanted
    assert len({(c[0].target_label, noise_seed(c[0])) for c in planned}) == len(planned)
    for candidates in planned:
        assert len({noise_seed(q) for q in candidates}) == 1
        assert all(a.r < b.r for a, b in pairwise(candidates))


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


def test_adaptive_candidates_ascend_in_r():
    assert [q.r for q in plan("genie", levels=(0.9, 0.5, 0.7))[0]] == [0.5, 0.7, 0.9]


def test_seed_decides_the_order_of_source_images():
    support = support_of(dict.fromkeys(LABELS, 20))
    first = [c[0].source_id for c in plan("genie", support, seed=0)]
    second = [c[0].source_id for c in plan("genie", support, seed=1)]
    assert first != second


@pytest.mark.parametrize("method", GENERATING)
def test_equal_tasks_share_all_requests(method):
    assert plan(method, task=0) == plan(method, task=7)


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
    planned = plan("img2img", levels=(0.3,))
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
    wanted = sum(sizes.values()) - sizes["coat"]
    planned = plan("genie", support, ranked, per_class={"coat": wanted}, every_source=True)
    others = support.loc[support["label"] != "coat", "image_id"]
    assert sorted(c[0].source_id for c in planned) == sorted(others)


def test_source_class_without_images_is_an_error():
    with pytest.raises(GenieError, match="'dress' has none in task 0"):
        plan("genie", support=SUPPORT[SUPPORT["label"] != "dress"])


def test_target_without_source_class_is_an_error():
    with pytest.raises(GenieError, match="'bag' has none in task 0"):
        plan("genie", per_class={"bag": 1})


def test_templates_take_turns_by_image_not_by_place():
    def numbered(name: str, source: str | None, turn: int) -> Wording:
        return Wording(f"{turn % 3} {name}", "")

    wide = plan("genie", per_class={"coat": 6}, wording=numbered)
    assert {len({q.prompt for q in group}) for group in wide} == {1}
    assert len({group[0].prompt for group in wide}) > 1
    fewer = SUPPORT[SUPPORT["image_id"] != "shirt-0"]
    again = {
        g[0].source_id: g[0].prompt
        for g in plan("genie", fewer, per_class={"coat": 4}, wording=numbered)
    }
    before = {g[0].source_id: g[0].prompt for g in wide if g[0].replicate == 0}
    shared = set(again) & set(before)
    assert shared
    assert all(again[i] == before[i] for i in shared)
    text = plan("txt2img", per_class={"coat": 6}, wording=numbered)
    assert [g[0].prompt[0] for g in text] == list("012012")


def test_every_method_says_how_it_copies_real_images():
    assert set(METHODS) == set(COPIERS)
    assert set(MIXERS) <= set(METHODS)


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
    assert noise_ratios(method, r=r, count=5, low=0.5, high=0.9) == ratios


def test_diff_mix_takes_images_of_all_other_classes_at_random():
    planned = plan("diff-mix", per_class={"coat": 9, "bag": 2}, levels=(0.8,))
    coats = [one[0] for one in planned if one[0].target_label == "coat"]
    assert sorted({q.source_id for q in coats}) == sorted(SUPPORT.image_id[SUPPORT.label != "coat"])
    assert all(q.source_label == q.source_id.split("-")[0] for q in coats)
    order = [q.source_label for q in coats]
    assert order != sorted(order)
    again = plan("diff-mix", SUPPORT.iloc[::-1], per_class={"coat": 9, "bag": 2}, levels=(0.8,))
    assert again == planned


def test_diff_mix_without_another_class_says_what_to_do():
    with pytest.raises(GenieError, match=r"diff-mix needs images of another class than 'coat'"):
        plan("diff-mix", support_of({"coat": 3}))


@pytest.mark.parametrize(
    ("shots", "r"), [(1, 0.5), (2, 0.4), (3, 0.4), (5, 0.35), (8, 0.2), (15, 0.2), (100, 0.15)]
)
def test_real_guidance_adds_less_noise_where_there_are_more_images(shots, r):
    support = support_of({"coat": shots, "bag": 1})
    planned = plan("real-guidance", support, per_class={"coat": 2, "bag": 1}, levels=())
    assert [(q.target_label, q.source_label, q.r) for (q,) in planned] == [
        ("coat", "coat", r),
        ("coat", "coat", r),
        ("bag", "bag", 0.5),
    ]


def test_soft_labels_follow_the_noise_ratio_for_diff_mix_alone():
    r = np.array([0.3, 0.8, 1.0])
    assert target_weights("diff-mix", r) == pytest.approx([0.3817, 0.8365, 1], abs=1e-4)
    assert target_weights("genie", r).tolist() == [1, 1, 1]


def planned_for(method, support, **changes):
    options = {
        "ratios": (0.5, 0.9),
        "per_class": lambda labels: {"coat": 2},
        "every_source": False,
        "wording_of": lambda task: lambda name, source, turn: Wording(f"{task} {name}", ""),
        "seed": 0,
    }
    sources = pd.concat([SOURCES.assign(task=t) for t in (3, 5)])
    return plan_tasks(method, support, sources, **(options | changes))


def test_tasks_are_planned_one_by_one_with_their_own_wording():
    support = pd.concat([SUPPORT.assign(task=5), SUPPORT.assign(task=3)])
    found = planned_for("genie", support)
    assert [one.task for one in found] == [3, 3, 5, 5]
    assert [{q.prompt for q in one.candidates} for one in found] == [{"3 coat"}] * 2 + [
        {"5 coat"}
    ] * 2
    counts = planned_for("genie", support, per_class=lambda labels: {"coat": labels.count("bag")})
    assert len(counts) == 6


def test_a_method_is_one_line_in_each_registry(monkeypatch):
    def reversed_pairs(brief: Brief) -> list:
        """The target's images under every other class's prompt."""
        swapped = brief.sources.rename(columns={"target": "source", "source": "target"})
        given = {str(c): 1 for c in swapped["target"].unique()}
        return METHODS["genie"].plan(replace(brief, sources=swapped, per_class=given))

    monkeypatch.setitem(METHODS, "toy", Method(reversed_pairs, ratio=0.4))
    monkeypatch.setitem(COPIERS, "toy", unchanged_copies)
    ratios = noise_ratios("toy", r="ada", count=5, low=0.5, high=0.9)
    found = planned_for("toy", SUPPORT.assign(task=3), ratios=ratios)
    pairs = {(one.candidates[0].source_label, one.candidates[0].target_label) for one in found}
    assert pairs == {("coat", "shirt"), ("coat", "dress"), ("shirt", "coat")}
    assert {q.r for one in found for q in one.candidates} == {0.4}
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    real = Examples(pictures, np.zeros((2, 4)), ["coat", "bag"])
    backbone = load_backbone(Path("zoo/backbone"))
    filled = copies(real, {"coat": 3}, COPIERS["toy"], backbone=backbone, seed=0)
    assert list(filled.labels) == ["coat"] * 3
    assert {image.getpixel((0, 0)) for image in filled.images} == {(255, 0, 0)}
