from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genie.classify.classifier import fit
from genie.classify.clip import embed_images, embed_texts, load_clip
from genie.classify.examples import Examples
from genie.classify.finetune import TrainingSettings
from genie.data.images import encode_png
from genie.generate.filters import RULES, Judge, apply_rule, draw_until_kept
from genie.generate.methods import METHODS
from genie.generate.renderer import Cost, Renderer
from genie.generate.request import Request, Wanted
from genie.generate.search import Trajectory
from genie.generate.store import save_image

SETTINGS = TrainingSettings(
    Path("zoo/backbone"),
    start="backbone",
    steps=1,
    batch_size=2,
    learning_rate=1e-3,
    loss="cross-entropy",
    seed=0,
)
CLIP = load_clip(Path("zoo/clip"), parameter="filter.clip")
PROMPTS = {"bag": "a photo of a bag", "coat": "a photo of a coat"}


def pictures(count: int, *, seed: int) -> list[Image.Image]:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC) for c in coarse]


def judge(**changes) -> Judge:
    support = Examples(pictures(4, seed=0), np.eye(4, 2), ["bag", "coat", "bag", "coat"])
    options = {
        "classifier": fit("prototype", support, settings=SETTINGS),
        "support": support,
        "prompts": PROMPTS,
        "clip": CLIP,
        "least_text": 0.0,
        "least_image": 0.0,
    }
    return Judge(**(options | changes))


GENERATED = Examples(
    pictures(12, seed=1), np.tile([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], (4, 1)), ["bag", "coat"] * 6
)


def test_nothing_is_rejected_without_a_rule():
    assert RULES["none"](GENERATED, judge()).all()


def test_classifier_keeps_what_it_calls_by_the_target():
    kept = RULES["classifier"](GENERATED, judge())
    called = ["bag", "coat", "coat"] * 4
    assert list(kept) == [c == t for c, t in zip(called, GENERATED.labels, strict=True)]


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """CLIP's embeddings of the generated images, the support images and each class's prompt."""
    generated, support = (embed_images(e.images, CLIP) for e in (GENERATED, judge().support))
    texts = embed_texts(list(PROMPTS.values()), CLIP)
    return generated, support, dict(zip(PROMPTS, texts, strict=True))


@pytest.mark.parametrize(("least_text", "least_image"), [(0.0, 0.0), (-1, 0.3), (0.1, -1), (0, 2)])
def test_cosine_filter_agrees_with_a_plain_loop(vectors, least_text, least_image):
    asked = judge(least_text=least_text, least_image=least_image)
    generated, support, texts = vectors
    expected = []
    for z, label in zip(generated, GENERATED.labels, strict=True):
        own = [
            real @ z for real, c in zip(support, asked.support.labels, strict=True) if c == label
        ]
        near = texts[label] @ z >= least_text and sum(own) / len(own) >= least_image
        expected.append(bool(near))
    assert list(RULES["cosine"](GENERATED, asked)) == expected


def test_clip_rule_keeps_where_the_targets_prompt_is_nearest(vectors):
    generated, _, texts = vectors
    expected = [max(texts, key=lambda label: texts[label] @ z) for z in generated]
    kept = RULES["clip"](GENERATED, judge())
    assert list(kept) == [c == t for c, t in zip(expected, GENERATED.labels, strict=True)]


def wanted(target: str, replicate: int, *, task: int = 0) -> Wanted:
    first = Request("s", "bag", target, "a photo", "", 0.5, replicate, 0, "")
    return Wanted(task, (first, replace(first, r=0.7)))


def trajectory(one: Wanted, chosen: int | None = 1, *, keys=("", ""), z=None) -> Trajectory:
    z = np.zeros((2, 2)) if z is None else z
    nowhere = np.full(2, np.nan)
    return Trajectory(one.task, one.candidates, keys, (5, 5), nowhere, z, np.nan, chosen)


@pytest.fixture
def renderer(sd, tmp_path) -> Renderer:
    return Renderer(sd, 5, 3.0, 4, {}, tmp_path)


def test_rule_sees_the_chosen_images_of_each_task_with_its_own_judge(renderer, monkeypatch):
    images = pictures(4, seed=3)
    keys = [f"{i:064d}" for i in range(4)]
    for key, image in zip(keys, images, strict=True):
        save_image(renderer.store, key, encode_png(image))
    found = [
        trajectory(wanted("bag", 0, task=1), 0, keys=(keys[0], keys[1])),
        trajectory(wanted("coat", 0, task=0), 1, keys=(keys[2], keys[3])),
        trajectory(wanted("coat", 1, task=1), 1, keys=(keys[0], keys[1])),
    ]
    seen = []

    def toy(generated: Examples, judge: Judge) -> np.ndarray:
        seen.append((judge.least_text, [i.tobytes() for i in generated.images], generated.labels))
        return np.array(generated.labels) == "coat"

    monkeypatch.setitem(RULES, "toy", toy)
    judges = {0: judge(least_text=0.0), 1: judge(least_text=0.1)}
    assert list(apply_rule(found, "toy", judges, renderer)) == [False, True, True]
    assert seen == [
        (0.0, [images[3].tobytes()], ["coat"]),
        (0.1, [images[0].tobytes(), images[1].tobytes()], ["bag", "coat"]),
    ]


def test_black_image_is_rejected_by_every_rule(renderer):
    white, black = (Image.new("RGB", (32, 32), color) for color in ("white", "black"))
    keys = ("a" * 64, "b" * 64)
    for key, image in zip(keys, (white, black), strict=True):
        save_image(renderer.store, key, encode_png(image))
    found = [trajectory(wanted("bag", 0), chosen, keys=keys) for chosen in (0, 1)]
    assert list(apply_rule(found, "none", {0: judge()}, renderer)) == [True, False]


def test_rule_of_every_method_exists():
    assert {method.rule for method in METHODS.values()} <= set(RULES)


class Search:
    """A search that renders nothing, chooses the second level and notes what it was asked for."""

    def __init__(self) -> None:
        self.rounds: list[list[Wanted]] = []

    def __call__(self, asked: Sequence[Wanted]) -> tuple[list[Trajectory], Cost]:
        self.rounds.append(list(asked))
        size = 32 // len(self.rounds)
        cost = Cost(len(asked), 0, len(asked), 2 * len(asked), 2 * len(asked), 1.0, size)
        return [trajectory(one) for one in asked], cost


@given(
    counts=st.dictionaries(
        st.tuples(st.integers(0, 1), st.sampled_from(["coat", "shirt"])), st.integers(0, 4)
    ),
    attempts=st.integers(1, 4),
    bad=st.sets(st.integers(0, 15)),
)
def test_every_wanted_image_is_kept_or_missing_after_the_attempts(counts, attempts, bad):
    plan = [wanted(c, k, task=t) for (t, c), n in counts.items() for k in range(n)]
    search = Search()
    found, cost = draw_until_kept(
        plan,
        search=search,
        kept=lambda some: np.array([one.candidates[0].replicate not in bad for one in some], bool),
        attempts=attempts,
    )
    expected, tried = [], 0
    for (task, label), count in counts.items():
        for k in range(count):  # image k tries the replicates k, k + count, k + 2 count, ...
            tries = [k + i * count for i in range(attempts)]
            good = [i for i, replicate in enumerate(tries) if replicate not in bad]
            expected += [(task, label, tries[good[0]])] if good else []
            tried += good[0] + 1 if good else attempts
    kept = [one for one in found if one.chosen is not None]
    names = [
        (one.task, one.candidates[0].target_label, one.candidates[0].replicate) for one in kept
    ]
    assert sorted(names) == sorted(expected)
    assert len(found) == tried == cost.needed == cost.rendered
    assert all(one.chosen is None for one in found if one.candidates[0].replicate in bad)
    assert len(search.rounds) <= attempts


@given(attempts=st.integers(1, 4), count=st.integers(1, 3))
def test_replacements_differ_in_noise_alone_and_costs_add_up(attempts, count):
    plan = [wanted("coat", k) for k in range(count)]
    search = Search()
    found, cost = draw_until_kept(
        plan, search=search, kept=lambda some: np.zeros(len(some), bool), attempts=attempts
    )
    assert [len(asked) for asked in search.rounds] == [count] * attempts
    for asked in search.rounds:
        for one, first in zip(asked, plan, strict=True):
            same = [replace(q, replicate=0) for q in one.candidates]
            assert same == [replace(q, replicate=0) for q in first.candidates]
            assert len({q.replicate for q in one.candidates}) == 1
    assert len({one.candidates for one in found}) == count * attempts
    assert [one.chosen for one in found] == [None] * (count * attempts)
    total = count * attempts
    assert cost == Cost(total, 0, total, 2 * total, 2 * total, float(attempts), 32 // attempts)
