"""The search for r*: renders each wanted image at every noise level and chooses one level.

The result is a `Trajectory` per wanted image, which holds all that is known about its levels.
`exact` renders all levels in full. `preview` compares quick previews and renders in full only the
levels that are kept, and those that previews cannot decide between.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from genie.classify.backbone import ImageModel, embed
from genie.classify.classifier import Classifier, predict
from genie.classify.examples import Examples
from genie.data.augmented_set import UNCLEAR
from genie.data.pictures import Pictures
from genie.errors import GenieError
from genie.generate.adaptive import axis_positions, chosen_level, finalists, shift_ratio
from genie.generate.noise import denoising_steps
from genie.generate.renderer import Cost, Renderer
from genie.generate.request import Candidates, Request, Wanted, distinct
from genie.tables import TRAJECTORIES, empty

PREVIEW_STEPS = 10
"""Denoising steps of a preview. With fewer, the chosen level differs from that of the exact search
too often (`benchmarks/preview.csv`)."""

_REQUEST_COLUMNS = {field.name: object for field in fields(Request)}


@dataclass(frozen=True)
class Trajectory:
    """A wanted image of a task, rendered at each of its M levels, r ascending.

    `keys` and `steps` identify the rendering of each level: its key in the store, and its
    `num_inference_steps` N, smaller for a preview. `positions` (M,) are 0 at the source and 1 at
    the target, and NaN where there is no axis. `embeddings` has shape (M, d). `shift_ratio` is its
    value when levels were first compared. `chosen` is the index of the level that is kept, or None.
    """

    task: int
    candidates: Candidates
    keys: tuple[str, ...]
    steps: tuple[int, ...]
    positions: np.ndarray
    embeddings: np.ndarray
    shift_ratio: float
    chosen: int | None


@dataclass(frozen=True)
class Landmarks:
    """The ends of the source-target axes, as embeddings (d,) of one backbone.

    `sources` maps image_id to Z_S. `targets` maps task and class to Z_T.
    """

    backbone: ImageModel
    sources: Mapping[str, np.ndarray]
    targets: Mapping[tuple[int, str], np.ndarray]


def landmarks_of(
    support: pd.DataFrame, embeddings: Mapping[str, np.ndarray], backbone: ImageModel
) -> Landmarks:
    """Compute the landmarks of all support images and classes.

    Z_S is the embedding of an image. Z_T is the mean embedding of a class's support images in a
    task. `support` has columns task, label, image_id. `embeddings` maps image_id to (d,).
    """
    classes = support.groupby(["task", "label"])["image_id"]
    targets = {
        (int(task), str(label)): np.mean([embeddings[i] for i in ids], 0)
        for (task, label), ids in classes
    }
    return Landmarks(backbone, embeddings, targets)


def exact(
    wanted: Sequence[Wanted],
    renderer: Renderer,
    landmarks: Landmarks,
    *,
    least: float | None = None,
    steps: int | None = None,
    later: int = 0,
) -> tuple[list[Trajectory], Cost]:
    """Render all levels and choose the one after the largest shift (Algorithm 1).

    With `least`, a level must also stand at this position or beyond (`adaptive.chosen_level`). A
    single level is always chosen. `steps` defaults to those of a full rendering. `later` is
    passed to `Renderer.ensure`. Raise GenieError, naming the pair, if levels are to be compared but
    source and target coincide.
    """
    steps = steps or renderer.steps
    requests = distinct(wanted)
    cost = renderer.ensure(requests, steps=steps, later=later)
    keys = {request: renderer.key(request, steps) for request in requests}
    embeddings = _embedded(set(keys.values()), renderer, landmarks.backbone)
    trajectories = [
        _trajectory(one, keys, embeddings, landmarks, steps, least=least) for one in wanted
    ]
    return trajectories, cost


def preview(
    wanted: Sequence[Wanted],
    renderer: Renderer,
    landmarks: Landmarks,
    *,
    least: float | None = None,
    steps: int = PREVIEW_STEPS,
    unclear: float = UNCLEAR,
) -> tuple[list[Trajectory], Cost]:
    """Choose levels by previews of `steps` denoising steps and render the chosen ones in full.

    Where the largest jump is less than `unclear` times the second largest, the levels before and
    after both jumps are rendered in full, and the largest jump between these decides. With `least`,
    so is the level that previews choose, and the first of these levels that stands there is kept.
    """
    later = _mean_steps(wanted, renderer.steps)
    quick, cost = exact(wanted, renderer, landmarks, least=least, steps=steps, later=later)
    levels = [
        sorted({*finalists(one.positions), *_chosen(one)})
        if one.shift_ratio < unclear
        else _chosen(one)
        for one in quick
    ]
    finals = [
        Wanted(one.task, tuple(one.candidates[level] for level in decisive))
        for one, decisive in zip(quick, levels, strict=True)
    ]
    requests = distinct(finals)
    cost += renderer.ensure(requests, steps=renderer.steps, later=None)
    keys = {request: renderer.key(request, renderer.steps) for request in requests}
    embeddings = _embedded(set(keys.values()), renderer, landmarks.backbone)
    trajectories = []
    for one, decisive, final in zip(quick, levels, finals, strict=True):
        full = _trajectory(final, keys, embeddings, landmarks, renderer.steps, compare=False)
        trajectories.append(_in_full(one, decisive, full, least))
    return trajectories, cost


def preview_steps(ratios: Sequence[float], full: int, *, between: bool, least: int) -> int:
    """Return the denoising steps of a preview that renders every level differently.

    These are `least` steps for a generator that can start `between` two of its steps. Otherwise
    they are the smallest multiple of `least` that gives all levels different numbers of steps, or
    `full` if no smaller number does.
    """
    if between:
        return min(least, full)
    for steps in range(least, full, least):
        if len({denoising_steps(r, steps) for r in ratios}) == len(ratios):
            return steps
    return full


def kept_images(trajectories: Sequence[Trajectory], renderer: Renderer) -> Examples:
    """Return the chosen images as examples, labelled by their targets."""
    keys = [one.keys[level] for one in trajectories for level in _chosen(one)]
    z = [one.embeddings[level] for one in trajectories for level in _chosen(one)]
    labels = [one.candidates[level].target_label for one in trajectories for level in _chosen(one)]
    return Examples(Pictures(renderer.picture, keys), np.stack(z), labels)


def called_target(
    trajectories: Sequence[Trajectory], classifiers: Mapping[int, Classifier], renderer: Renderer
) -> list[np.ndarray]:
    """Return whether the task's classifier predicts the target, as (M,) bool per trajectory."""
    called: list[np.ndarray] = [np.zeros(0, bool)] * len(trajectories)
    for task in sorted({one.task for one in trajectories}):
        places = [i for i, one in enumerate(trajectories) if one.task == task]
        members = [trajectories[i] for i in places]
        classifier = classifiers[task]
        images = Pictures(renderer.picture, [key for one in members for key in one.keys])
        targets = [request.target_label for one in members for request in one.candidates]
        examples = Examples(images, np.concatenate([one.embeddings for one in members]), targets)
        right = predict(classifier, examples) == np.array(targets)
        ends = np.cumsum([len(one.keys) for one in members])[:-1]
        for i, part in zip(places, np.split(right, ends), strict=True):
            called[i] = part
    return called


def as_table(trajectories: Sequence[Trajectory], called: Sequence[np.ndarray]) -> pd.DataFrame:
    """Return a table with one row per level: the columns of TRAJECTORIES and of the requests.

    `called` holds the result of `called_target` for each trajectory.
    """
    rows = [
        {
            **vars(request),
            "task": one.task,
            "level": level,
            "key": one.keys[level],
            "steps": one.steps[level],
            "position": one.positions[level],
            "shift_ratio": one.shift_ratio,
            "chosen": level == one.chosen,
            "called_target": levels[level],
            "embedding": one.embeddings[level],
        }
        for one, levels in zip(trajectories, called, strict=True)
        for level, request in enumerate(one.candidates)
    ]
    return pd.DataFrame(rows) if rows else empty({**_REQUEST_COLUMNS, **TRAJECTORIES})


def _embedded(
    keys: Collection[str], renderer: Renderer, backbone: ImageModel
) -> dict[str, np.ndarray]:
    """Return the embeddings of images in the store, by key."""
    names = sorted(keys)
    images = Pictures(renderer.picture, names)
    return dict(zip(names, embed(images, model=backbone), strict=True))


def _trajectory(
    wanted: Wanted,
    keys: Mapping[Request, str],
    embeddings: Mapping[str, np.ndarray],
    landmarks: Landmarks,
    steps: int,
    *,
    least: float | None = None,
    compare: bool = True,
) -> Trajectory:
    """Place the levels on the axis and choose one.

    With `compare` False, or for a single level, the first one is chosen.
    """
    candidates = wanted.candidates
    level_keys = tuple(keys[request] for request in candidates)
    z = np.stack([embeddings[key] for key in level_keys])
    along = _positions(wanted, z, landmarks)
    compare = compare and len(candidates) > 1
    return Trajectory(
        task=wanted.task,
        candidates=candidates,
        keys=level_keys,
        steps=(steps,) * len(candidates),
        positions=along,
        embeddings=z,
        shift_ratio=shift_ratio(along) if compare else float("nan"),
        chosen=chosen_level(along, least=least) if compare else 0,
    )


def _positions(wanted: Wanted, z: np.ndarray, landmarks: Landmarks) -> np.ndarray:
    """Return the positions (M,) of embeddings (M, d), NaN without a source of another class."""
    first = wanted.candidates[0]
    nowhere = np.full(len(z), np.nan)
    if first.source_id is None or first.source_label == first.target_label:
        return nowhere
    try:
        return axis_positions(
            z,
            landmarks.sources[first.source_id],
            landmarks.targets[wanted.task, first.target_label],
        )
    except GenieError as error:
        if len(z) == 1:  # there is nothing to compare
            return nowhere
        pair = f"{first.source_label} ({first.source_id}) → {first.target_label}"
        raise GenieError(f"GeNIe-Ada cannot compare levels for {pair}: {error}") from None


def _in_full(
    quick: Trajectory, levels: Sequence[int], full: Trajectory, least: float | None
) -> Trajectory:
    """Return the trajectory of previews with `levels` replaced by their full renderings.

    A single level was chosen by the previews and keeps its position. Among several levels, the full
    renderings decide.
    """
    along, z = quick.positions.copy(), quick.embeddings.copy()
    keys, steps = list(quick.keys), list(quick.steps)
    chosen = quick.chosen
    for level, key, count, vector in zip(
        levels, full.keys, full.steps, full.embeddings, strict=True
    ):
        keys[level], steps[level], z[level] = key, count, vector
    if len(levels) > 1:
        along[list(levels)] = full.positions
        chosen = chosen_level(along, least=least, among=levels)
    return replace(
        quick,
        keys=tuple(keys),
        steps=tuple(steps),
        positions=along,
        embeddings=z,
        chosen=chosen,
    )


def _chosen(trajectory: Trajectory) -> list[int]:
    return [] if trajectory.chosen is None else [trajectory.chosen]


def _mean_steps(wanted: Sequence[Wanted], full: int) -> int:
    """Sum, over distinct pairs, the mean guided steps of rendering one level in full."""
    pairs = {one.candidates for one in wanted}
    return sum(sum(denoising_steps(q.r, full) for q in pair) // len(pair) for pair in pairs)
