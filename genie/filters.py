"""Which generated images are kept: one function per rule, all of one signature.

A rule sees a task's generated images and what was learned from its support images, never a query
image and never the oracle. What is rejected is drawn anew until the attempts are used up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from genie.augmentation import Groups
from genie.classifiers import Classifier, Examples, TrainingSettings, predict_proba
from genie.clip import Clip, embed_images, embed_texts, zero_shot
from genie.records import Candidates


@dataclass(frozen=True)
class Judge:
    """What a rule may ask about one task.

    `classifier` was trained on the support images alone; `prompts` holds a prompt per class;
    `least_text` and `least_image` are cosine similarities in [-1, 1].
    """

    classifier: Classifier
    settings: TrainingSettings
    support: Examples
    prompts: Mapping[str, str]
    clip: Clip | None
    least_text: float
    least_image: float


Rule = Callable[[Examples, Judge], np.ndarray]
"""From generated images, labelled by their targets, to a boolean (n,): which are kept."""


def keep_all(generated: Examples, judge: Judge) -> np.ndarray:
    """No image is rejected."""
    return np.ones(len(generated.labels), bool)


def called_by_classifier(generated: Examples, judge: Judge) -> np.ndarray:
    """Images that the classifier trained on the support images calls by their target."""
    shares = predict_proba(judge.classifier, generated, settings=judge.settings)
    return np.array(judge.classifier.classes)[shares.argmax(1)] == np.array(generated.labels)


def nearest_by_clip(generated: Examples, judge: Judge) -> np.ndarray:
    """Images to which CLIP finds their target's prompt nearer than any other class's."""
    assert judge.clip is not None
    called = zero_shot(generated.images, judge.prompts, judge.clip)
    return np.array(called) == np.array(generated.labels)


def hard_cosine(generated: Examples, judge: Judge) -> np.ndarray:
    """DiffCoRe-Mix: near enough, in CLIP space, to the target's prompt and to its real images.

    cos(image, prompt) >= `least_text`, and the mean of cos(image, support image of the target) >=
    `least_image`.
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


def draw_until_kept(
    groups: Groups,
    *,
    trace: Callable[[Groups], pd.DataFrame],
    kept: Callable[[int, pd.DataFrame], np.ndarray],
    attempts: int,
) -> tuple[pd.DataFrame, int]:
    """Trajectories of all groups, the rejected ones drawn anew, and how many were rejected.

    `trace` renders groups and returns their trajectories with the choice; `kept(task, rows)` says
    which of a task's chosen rows stay. A rejected image is replaced by one of the same source,
    target and prompt with other noise; it stays in the table, not chosen. After `attempts` rounds
    what is still rejected is not replaced.
    """
    tables: list[pd.DataFrame] = []
    rejected = 0
    repeats = {task: _repeats(own) for task, own in groups.items()}
    for _ in range(attempts):
        table = trace(groups)
        again: dict[int, list[Candidates]] = {}
        for task, rows in table[table["chosen"]].groupby("task"):
            own = groups[int(task)]
            stays = kept(int(task), rows)
            table.loc[rows.index[~stays], "chosen"] = False
            again[int(task)] = [
                _substitute(group, repeats[task])
                for group, stay in zip(own, stays, strict=True)
                if not stay
            ]
        tables.append(table)
        rejected += sum(map(len, again.values()))
        groups = {task: own for task, own in again.items() if own}
        if not groups:
            break
    return pd.concat(tables, ignore_index=True), rejected


def _repeats(groups: Sequence[Candidates]) -> dict[tuple[str | None, str], int]:
    """How many images are wanted of each source and target."""
    repeats: dict[tuple[str | None, str], int] = {}
    for first, *_ in groups:
        pair = (first.source_id, first.target_label)
        repeats[pair] = max(repeats.get(pair, 0), first.replicate + 1)
    return repeats


def _substitute(group: Candidates, repeats: Mapping[tuple[str | None, str], int]) -> Candidates:
    step = repeats[(group[0].source_id, group[0].target_label)]
    return tuple(replace(request, replicate=request.replicate + step) for request in group)
