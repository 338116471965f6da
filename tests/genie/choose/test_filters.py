"""The filter rules, against plain loops, and new draws for rejected images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genie.choose.filters import NEED_CLIP, RULES, Judge, apply_rule, draw_until_kept
from genie.choose.search import Trajectory
from genie.classify.classifier import fit
from genie.classify.clip import embed_images, embed_texts, load_clip
from genie.classify.examples import Examples
from genie.classify.settings import TrainingSettings
from genie.data.images import encode_png
from genie.plan.methods import METHODS
from genie.plan.requests import Request, Slot
from genie.render.loop import Cost, Renderer
from genie.render.store import DiskStore, save_image
from tests.genie.render.engines import FakeEngine

SETTINGS = TrainingSettings(
    head="prototype", backbone=Path("zoo/backbone"), steps=1, batch_size=2, learning_rate=1e-3
)
CLIP = load_clip(Path("zoo/clip"), argument="clip")
PROMPTS = {"bag": "a photo of a bag", "coat": "a photo of a coat"}


def pictures(count: int, *, seed: int) -> list[Image.Image]:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC) for c in coarse]


def judge(**changes) -> Judge:
    support = Examples(pictures(4, seed=0), np.eye(4, 2), ["bag", "coat", "bag", "coat"])
    options = {
        "classifier": fit(support, SETTINGS),
        "support": support,
        "prompts": PROMPTS,
        "clip": CLIP,
        "min_text": 0.0,
        "min_image": 0.0,
    }
    return Judge(**(options | changes))


GENERATED = Examples(
    pictures(12, seed=1), np.tile([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], (4, 1)), ["bag", "coat"] * 6
)


def test_nothing_is_rejected_without_a_rule():
    assert RULES["none"](GENERATED, judge()).all()


def test_classifier_keeps_images_that_it_predicts_as_their_target():
    kept = RULES["classifier"](GENERATED, judge())
    predicted = ["bag", "coat", "coat"] * 4
    assert list(kept) == [c == t for c, t in zip(predicted, GENERATED.labels, strict=True)]


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """CLIP's embeddings of the generated images, the support images and each class's prompt."""
    generated, support = (embed_images(e.images, CLIP) for e in (GENERATED, judge().support))
    texts = embed_texts(list(PROMPTS.values()), CLIP)
    return generated, support, dict(zip(PROMPTS, texts, strict=True))


@pytest.mark.parametrize(("min_text", "min_image"), [(0.0, 0.0), (-1, 0.3), (0.1, -1), (0, 2)])
def test_cosine_filter_agrees_with_a_plain_loop(vectors, min_text, min_image):
    asked = judge(min_text=min_text, min_image=min_image)
    generated, support, texts = vectors
    expected = []
    for z, label in zip(generated, GENERATED.labels, strict=True):
        cosines = [
            real @ z for real, c in zip(support, asked.support.labels, strict=True) if c == label
        ]
        near = texts[label] @ z >= min_text and sum(cosines) / len(cosines) >= min_image
        expected.append(bool(near))
    assert list(RULES["cosine"](GENERATED, asked)) == expected


def test_clip_rule_keeps_where_the_targets_prompt_is_nearest(vectors):
    generated, _, texts = vectors
    expected = [max(texts, key=lambda label: texts[label] @ z) for z in generated]
    kept = RULES["clip"](GENERATED, judge())
    assert list(kept) == [c == t for c, t in zip(expected, GENERATED.labels, strict=True)]


def slot_of(target: str, replicate: int, *, task: int = 0) -> Slot:
    first = Request("s", "bag", target, "a photo", "", 0.5, replicate, 0, "")
    return Slot(task, (first, replace(first, r=0.7)))


def trajectory(slot: Slot, chosen: int | None = 1, *, keys=("", "")) -> Trajectory:
    nowhere = np.full(2, np.nan)
    return Trajectory(slot, keys, (5, 5), nowhere, np.zeros((2, 2)), np.nan, chosen)


@pytest.fixture
def renderer(tmp_path) -> Renderer:
    return Renderer(FakeEngine(lives=0), DiskStore(tmp_path))


def test_rule_sees_the_chosen_images_of_each_task_with_its_own_judge(renderer, monkeypatch):
    images = pictures(4, seed=3)
    keys = [f"{i:064d}" for i in range(4)]
    for key, image in zip(keys, images, strict=True):
        save_image(renderer.store.root, key, encode_png(image))
    found = [
        trajectory(slot_of("bag", 0, task=1), 0, keys=(keys[0], keys[1])),
        trajectory(slot_of("coat", 0, task=0), 1, keys=(keys[2], keys[3])),
        trajectory(slot_of("coat", 1, task=1), 1, keys=(keys[0], keys[1])),
    ]
    seen = []

    def toy(generated: Examples, judge: Judge) -> np.ndarray:
        seen.append((judge.min_text, [i.tobytes() for i in generated.images], generated.labels))
        return np.array(generated.labels) == "coat"

    monkeypatch.setitem(RULES, "toy", toy)
    judges = {0: judge(min_text=0.0), 1: judge(min_text=0.1)}
    assert list(apply_rule(found, "toy", judges, renderer)) == [False, True, True]
    assert seen == [
        (0.0, [images[3].tobytes()], ["coat"]),
        (0.1, [images[0].tobytes(), images[1].tobytes()], ["bag", "coat"]),
    ]


def test_black_image_is_rejected_by_every_rule(renderer):
    white, black = (Image.new("RGB", (32, 32), color) for color in ("white", "black"))
    keys = ("a" * 64, "b" * 64)
    for key, image in zip(keys, (white, black), strict=True):
        save_image(renderer.store.root, key, encode_png(image))
    found = [trajectory(slot_of("bag", 0), chosen, keys=keys) for chosen in (0, 1)]
    assert list(apply_rule(found, "none", {0: judge()}, renderer)) == [True, False]


def test_rule_of_every_method_exists():
    assert {method.rule for method in METHODS.values()} <= set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_rules_that_need_clip_are_those_that_fail_without(rule):
    without = judge(clip=None)
    if rule in NEED_CLIP:
        with pytest.raises(AssertionError):
            RULES[rule](GENERATED, without)
    else:
        assert RULES[rule](GENERATED, without).dtype == bool


class Search:
    """A search that renders nothing, chooses the second level and records its slots."""

    def __init__(self) -> None:
        self.rounds: list[list[Slot]] = []

    def __call__(self, slots: Sequence[Slot]) -> tuple[list[Trajectory], Cost]:
        self.rounds.append(list(slots))
        size = 32 // len(self.rounds)
        cost = Cost(len(slots), 0, len(slots), 2 * len(slots), 2 * len(slots), 1.0, size)
        return [trajectory(slot) for slot in slots], cost


def first_of(trajectory: Trajectory) -> Request:
    return trajectory.slot.levels[0]


@given(
    counts=st.dictionaries(
        st.tuples(st.integers(0, 1), st.sampled_from(["coat", "shirt"])), st.integers(0, 4)
    ),
    attempts=st.integers(1, 4),
    bad=st.sets(st.integers(0, 15)),
)
def test_every_slot_is_filled_or_empty_after_the_attempts(counts, attempts, bad):
    plan = [slot_of(c, k, task=t) for (t, c), n in counts.items() for k in range(n)]
    search = Search()
    drawn = draw_until_kept(
        plan,
        search=search,
        keeps=lambda some: np.array([first_of(one).replicate not in bad for one in some], bool),
        attempts=attempts,
    )
    found, cost = drawn.trajectories, drawn.cost
    expected, tried = [], 0
    for (task, label), count in counts.items():
        for k in range(count):  # image k tries the replicates k, k + count, k + 2 count, ...
            tries = [k + i * count for i in range(attempts)]
            good = [i for i, replicate in enumerate(tries) if replicate not in bad]
            expected += [(task, label, tries[good[0]])] if good else []
            tried += good[0] + 1 if good else attempts
    kept = [one for one in found if one.chosen is not None]
    names = [(one.task, first_of(one).target_label, first_of(one).replicate) for one in kept]
    assert sorted(names) == sorted(expected)
    assert len(found) == tried == cost.needed == cost.rendered
    assert all(one.chosen is None for one in found if first_of(one).replicate in bad)
    assert len(search.rounds) == len(drawn.kept) <= attempts
    assert drawn.kept[-1] == len(kept)
    assert list(drawn.kept) == sorted(drawn.kept)


@given(attempts=st.integers(1, 4), count=st.integers(1, 3))
def test_replacements_differ_in_noise_alone_and_costs_add_up(attempts, count):
    plan = [slot_of("coat", k) for k in range(count)]
    search = Search()
    drawn = draw_until_kept(
        plan, search=search, keeps=lambda some: np.zeros(len(some), bool), attempts=attempts
    )
    assert [len(slots) for slots in search.rounds] == [count] * attempts
    for slots in search.rounds:
        for slot, first in zip(slots, plan, strict=True):
            same = [replace(q, replicate=0) for q in slot.levels]
            assert same == [replace(q, replicate=0) for q in first.levels]
            assert len({q.replicate for q in slot.levels}) == 1
    assert len({one.slot.levels for one in drawn.trajectories}) == count * attempts
    assert [one.chosen for one in drawn.trajectories] == [None] * (count * attempts)
    assert drawn.kept == (0,) * attempts
    total = count * attempts
    assert drawn.cost == Cost(
        total, 0, total, 2 * total, 2 * total, float(attempts), 32 // attempts
    )
