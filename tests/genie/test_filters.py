from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genie.classifiers import Examples, TrainingSettings, fit
from genie.clip import embed_images, embed_texts, load_clip
from genie.filters import RULES, Judge, draw_until_kept
from genie.records import Request

SETTINGS = TrainingSettings(
    Path("zoo/backbone"),
    pretrained=True,
    steps=1,
    batch_size=2,
    learning_rate=1e-3,
    loss="cross-entropy",
    seed=0,
)
PROMPTS = {"bag": "a photo of a bag", "coat": "a photo of a coat"}


def pictures(count: int, *, seed: int) -> list[Image.Image]:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC) for c in coarse]


def judge(**changes) -> Judge:
    support = Examples(pictures(4, seed=0), np.eye(4, 2), ["bag", "coat", "bag", "coat"])
    options = {
        "classifier": fit("prototype", support, settings=SETTINGS),
        "settings": SETTINGS,
        "support": support,
        "prompts": PROMPTS,
        "clip": load_clip(Path("zoo/clip"), parameter="filter.clip"),
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


@pytest.mark.parametrize(("least_text", "least_image"), [(0.0, 0.0), (-1, 0.3), (0.1, -1), (0, 2)])
def test_cosine_filter_agrees_with_a_plain_loop(least_text, least_image):
    asked = judge(least_text=least_text, least_image=least_image)
    expected = []
    for image, label in zip(GENERATED.images, GENERATED.labels, strict=True):
        (z,) = embed_images([image], asked.clip)
        (text,) = embed_texts([PROMPTS[label]], asked.clip)
        pairs = zip(asked.support.images, asked.support.labels, strict=True)
        own = [embed_images([real], asked.clip)[0] @ z for real, c in pairs if c == label]
        expected.append(bool(text @ z >= least_text and sum(own) / len(own) >= least_image))
    assert list(RULES["cosine"](GENERATED, asked)) == expected


def test_clip_rule_keeps_where_the_targets_prompt_is_nearest():
    asked = judge()
    z, texts = embed_images(GENERATED.images, asked.clip), embed_texts(PROMPTS.values(), asked.clip)
    expected = [list(PROMPTS)[int((texts @ v).argmax())] for v in z]
    kept = RULES["clip"](GENERATED, asked)
    assert list(kept) == [c == t for c, t in zip(expected, GENERATED.labels, strict=True)]


def request(target: str, replicate: int, r: float = 0.7) -> Request:
    return Request("s", "bag", target, "a photo", "", r, replicate, 0)


def trace(groups) -> pd.DataFrame:
    """Two levels per group, the second chosen."""
    rows = [
        {"task": t, "target_label": q.target_label, "replicate": q.replicate, "chosen": i == 1}
        for t, own in groups.items()
        for group in own
        for i, q in enumerate(group)
    ]
    columns = ["task", "target_label", "replicate", "chosen"]
    return pd.DataFrame(rows, columns=columns).astype({"chosen": bool})


@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    attempts=st.integers(1, 4),
    bad=st.sets(st.integers(0, 15)),
)
def test_rejected_images_are_drawn_anew_until_the_attempts_are_used_up(counts, attempts, bad):
    groups = {
        task: [(request("coat", k, 0.5), request("coat", k)) for k in range(count)]
        for task, count in enumerate(counts)
    }
    table, rejected = draw_until_kept(
        groups,
        trace=trace,
        kept=lambda task, rows: ~rows["replicate"].isin(bad).to_numpy(),
        attempts=attempts,
    )
    chosen = table[table["chosen"]]
    assert not set(chosen["replicate"]) & bad
    for task, count in enumerate(counts):
        # slot k tries the replicates k, k + count, k + 2 count, ...
        tries = [[k + i * count for i in range(attempts)] for k in range(count)]
        first = [next((x for x in slot if x not in bad), None) for slot in tries]
        own = chosen[chosen["task"] == task]
        assert sorted(own["replicate"]) == sorted(x for x in first if x is not None)
    misses = [
        len(list(iter_until(slot, bad)))
        for count in counts
        for slot in [[k + i * count for i in range(attempts)] for k in range(count)]
    ]
    assert rejected == sum(misses)


def iter_until(slot, bad):
    """The rejected tries of a slot before the one that is kept."""
    for replicate in slot:
        if replicate not in bad:
            return
        yield replicate
