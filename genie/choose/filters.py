"""Filter rules, which decide which generated images are kept; each rule is a `Rule` function.

A rule uses a task's generated images, its support images and models trained on them, but never
query images or the oracle. Rejected images are drawn again until no attempts are left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np

from genie.choose.search import Trajectory, kept_images
from genie.classify.classifier import Classifier, predict
from genie.classify.clip import Clip, embed_images, embed_texts, zero_shot
from genie.classify.examples import Examples
from genie.data.images import is_blank
from genie.plan.requests import Slot
from genie.render.loop import Cost, Renderer


@dataclass(frozen=True)
class Judge:
    """The models and data of one task that a rule may use.

    `classifier` was trained on the support images alone. `prompts` has one prompt per class.
    `min_text` and `min_image` are cosine similarities in [-1, 1].
    """

    classifier: Classifier
    support: Examples
    prompts: Mapping[str, str]
    clip: Clip | None
    min_text: float
    min_image: float


Rule = Callable[[Examples, Judge], np.ndarray]
"""A function of labelled generated images that returns a mask (n,) of the images to keep."""


def keep_all(generated: Examples, judge: Judge) -> np.ndarray:
    """Keep every image."""
    return np.ones(len(generated.labels), bool)


def predicted_by_classifier(generated: Examples, judge: Judge) -> np.ndarray:
    """Keep images for which the classifier trained on the support images predicts the target."""
    return predict(judge.classifier, generated) == np.array(generated.labels)


def nearest_by_clip(generated: Examples, judge: Judge) -> np.ndarray:
    """Keep images that CLIP embeds nearer to their target's prompt than to any other class's."""
    assert judge.clip is not None
    predicted = zero_shot(generated.images, judge.prompts, judge.clip)
    return np.array(predicted) == np.array(generated.labels)


def hard_cosine(generated: Examples, judge: Judge) -> np.ndarray:
    """Keep images close to the target's prompt and its real images in CLIP space (DiffCoRe-Mix).

    An image is kept if cos(image, prompt) >= `min_text` and the mean of cos(image, support image of
    the target) >= `min_image`.
    """
    assert judge.clip is not None
    z = embed_images(generated.images, judge.clip)
    texts = dict(
        zip(judge.prompts, embed_texts(list(judge.prompts.values()), judge.clip), strict=True)
    )
    real = embed_images(judge.support.images, judge.clip)
    means = {c: real[np.array(judge.support.labels) == c].mean(0) for c in set(generated.labels)}
    to_text = np.array([v @ texts[c] for v, c in zip(z, generated.labels, strict=True)])
    to_image = np.array([v @ means[c] for v, c in zip(z, generated.labels, strict=True)])
    return (to_text >= judge.min_text) & (to_image >= judge.min_image)


RULES: dict[str, Rule] = {
    "none": keep_all,
    "classifier": predicted_by_classifier,
    "clip": nearest_by_clip,
    "cosine": hard_cosine,
}
NEED_CLIP = ("clip", "cosine")


def apply_rule(
    trajectories: Sequence[Trajectory], rule: str, judges: Mapping[int, Judge], renderer: Renderer
) -> np.ndarray:
    """Return a mask (n,) of the trajectories whose chosen image is kept by a rule (a key of RULES).

    `judges` has one judge per task. Black images are always rejected.
    """
    stays = np.ones(len(trajectories), bool)
    for task in sorted({t.task for t in trajectories}):
        rows = np.array([t.task == task for t in trajectories])
        generated = kept_images(list(compress(trajectories, rows)), renderer)
        seen = np.array([not is_blank(image) for image in generated.images])
        stays[rows] = RULES[rule](generated, judges[task]) & seen
    return stays


@dataclass(frozen=True)
class Drawn:
    """The result of filling slots.

    `trajectories` contains the trajectories of all rounds; `chosen` is None for rejected images.
    `kept` is the number of images kept after each round.
    """

    trajectories: list[Trajectory]
    cost: Cost
    kept: tuple[int, ...]


def draw_until_kept(
    slots: Sequence[Slot],
    *,
    search: Callable[[Sequence[Slot]], tuple[list[Trajectory], Cost]],
    keeps: Callable[[list[Trajectory]], np.ndarray],
    attempts: int,
) -> Drawn:
    """Search until every slot has an image that is kept, for at most `attempts` rounds.

    `search` returns the trajectories of slots and their cost, and `keeps` returns a mask of the
    chosen images that are kept. A rejected image is replaced by an image with the same source,
    target and prompt but different noise. Images rejected in the last round are not replaced.
    """
    trajectories: list[Trajectory] = []
    costs: list[Cost] = []
    kept: list[int] = []
    repeats = _repeats(slots)
    for _ in range(attempts):
        drawn, cost = search(slots)
        costs.append(cost)
        stays = keeps(drawn)
        trajectories += [
            t if stay else replace(t, chosen=None) for t, stay in zip(drawn, stays, strict=True)
        ]
        kept.append(sum(kept[-1:]) + int(stays.sum()))
        slots = [
            _substitute(slot, repeats) for slot, stay in zip(slots, stays, strict=True) if not stay
        ]
        if not slots:
            break
    return Drawn(trajectories, sum(costs[1:], costs[0]), tuple(kept))


Pair = tuple[int, str | None, str]
"""Task, source image and target class."""


def _pair(slot: Slot) -> Pair:
    first = slot.levels[0]
    return slot.task, first.source_id, first.target_label


def _repeats(slots: Sequence[Slot]) -> dict[Pair, int]:
    """Count the slots of each task, source image and target class."""
    repeats: dict[Pair, int] = {}
    for slot in slots:
        count = slot.levels[0].replicate + 1
        repeats[_pair(slot)] = max(repeats.get(_pair(slot), 0), count)
    return repeats


def _substitute(slot: Slot, repeats: Mapping[Pair, int]) -> Slot:
    step = repeats[_pair(slot)]
    return Slot(slot.task, tuple(replace(q, replicate=q.replicate + step) for q in slot.levels))
