"""Rules that decide which generated images are kept: one function per rule, all of the same type.

A rule sees a task's generated images and what was learned from its support images. It never sees a
query image or the oracle. Rejected images are drawn again until the attempts are used up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np

from genie.classify.classifier import Classifier, predict
from genie.classify.clip import Clip, embed_images, embed_texts, zero_shot
from genie.classify.examples import Examples
from genie.data.images import is_blank
from genie.generate.renderer import Cost, Renderer
from genie.generate.request import Wanted
from genie.generate.search import Trajectory, kept_images


@dataclass(frozen=True)
class Judge:
    """The information about one task that a rule may use.

    `classifier` was trained on the support images alone. `prompts` holds one prompt per class.
    `least_text` and `least_image` are cosine similarities in [-1, 1].
    """

    classifier: Classifier
    support: Examples
    prompts: Mapping[str, str]
    clip: Clip | None
    least_text: float
    least_image: float


Rule = Callable[[Examples, Judge], np.ndarray]
"""Maps generated images, labelled by their targets, to a boolean array (n,): which are kept."""


def keep_all(generated: Examples, judge: Judge) -> np.ndarray:
    """Keep every image."""
    return np.ones(len(generated.labels), bool)


def called_by_classifier(generated: Examples, judge: Judge) -> np.ndarray:
    """Keep images for which the classifier trained on the support images predicts the target."""
    return predict(judge.classifier, generated) == np.array(generated.labels)


def nearest_by_clip(generated: Examples, judge: Judge) -> np.ndarray:
    """Keep images that CLIP embeds nearer to their target's prompt than to any other class's."""
    assert judge.clip is not None
    called = zero_shot(generated.images, judge.prompts, judge.clip)
    return np.array(called) == np.array(generated.labels)


def hard_cosine(generated: Examples, judge: Judge) -> np.ndarray:
    """Keep images close to the target's prompt and real images in CLIP space (DiffCoRe-Mix).

    Both must hold: cos(image, prompt) >= `least_text`, and the mean of cos(image, support image of
    the target) >= `least_image`.
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
    return (to_text >= judge.least_text) & (to_image >= judge.least_image)


RULES: dict[str, Rule] = {
    "none": keep_all,
    "classifier": called_by_classifier,
    "clip": nearest_by_clip,
    "cosine": hard_cosine,
}
ASK_CLIP = ("clip", "cosine")


def apply_rule(
    trajectories: Sequence[Trajectory], rule: str, judges: Mapping[int, Judge], renderer: Renderer
) -> np.ndarray:
    """Return whether a rule (a key of RULES) keeps the chosen image of each trajectory, (n,) bool.

    `judges` holds one judge per task. No rule keeps a black image.
    """
    stays = np.ones(len(trajectories), bool)
    for task in sorted({one.task for one in trajectories}):
        rows = np.array([one.task == task for one in trajectories])
        generated = kept_images(list(compress(trajectories, rows)), renderer)
        seen = np.array([not is_blank(image) for image in generated.images])
        stays[rows] = RULES[rule](generated, judges[task]) & seen
    return stays


def draw_until_kept(
    wanted: Sequence[Wanted],
    *,
    search: Callable[[Sequence[Wanted]], tuple[list[Trajectory], Cost]],
    kept: Callable[[list[Trajectory]], np.ndarray],
    attempts: int,
) -> tuple[list[Trajectory], Cost]:
    """Search until all chosen images are kept, for at most `attempts` rounds.

    `search` returns the trajectories of wanted images and their cost, and `kept` returns which of
    the chosen images are kept. A rejected image is replaced by one with the same source, target and
    prompt but different noise. Images rejected in the last round are not replaced. Return all
    trajectories and their total cost. Trajectories of rejected images have nothing chosen.
    """
    trajectories: list[Trajectory] = []
    costs: list[Cost] = []
    repeats = _repeats(wanted)
    for _ in range(attempts):
        drawn, cost = search(wanted)
        costs.append(cost)
        stays = kept(drawn)
        trajectories += [
            one if stay else replace(one, chosen=None)
            for one, stay in zip(drawn, stays, strict=True)
        ]
        wanted = [
            _substitute(one, repeats) for one, stay in zip(wanted, stays, strict=True) if not stay
        ]
        if not wanted:
            break
    return trajectories, sum(costs[1:], costs[0])


Pair = tuple[int, str | None, str]
"""Task, source image and target class."""


def _pair(wanted: Wanted) -> Pair:
    first = wanted.candidates[0]
    return wanted.task, first.source_id, first.target_label


def _repeats(wanted: Sequence[Wanted]) -> dict[Pair, int]:
    """Count the images wanted of each pair."""
    repeats: dict[Pair, int] = {}
    for one in wanted:
        count = one.candidates[0].replicate + 1
        repeats[_pair(one)] = max(repeats.get(_pair(one), 0), count)
    return repeats


def _substitute(wanted: Wanted, repeats: Mapping[Pair, int]) -> Wanted:
    step = repeats[_pair(wanted)]
    return Wanted(
        wanted.task, tuple(replace(q, replicate=q.replicate + step) for q in wanted.candidates)
    )
