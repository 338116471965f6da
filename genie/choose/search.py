"""Search for r*: render the image of each slot at every noise level, and choose one level.

The result is a `Trajectory` per slot, with all of its levels. `exact` renders all levels in full.
`preview` compares quick previews. It renders in full only the chosen levels, and the levels between
which the previews do not decide clearly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from genie.choose.adaptive import axis_positions, chosen_level, finalists, shift_ratio
from genie.classify.backbone import ImageModel, embed
from genie.classify.classifier import Classifier, predict
from genie.classify.examples import Examples
from genie.core.errors import InvalidValueError
from genie.core.tables import TRAJECTORIES, UNCLEAR, empty
from genie.data.pictures import Pictures
from genie.plan.levels import Levels, denoising_steps
from genie.plan.requests import Request, Slot, distinct
from genie.render.loop import Cost, Renderer

PREVIEW_STEPS = 10
"""Denoising steps of a preview. With fewer steps, previews and the exact search choose different
levels too often (docs/reference/decisions.md)."""

_REQUEST_COLUMNS = {field.name: object for field in fields(Request)}


@dataclass(frozen=True)
class Trajectory:
    """The image of a slot, rendered at each of its M levels, in ascending r.

    `keys` and `steps` identify the rendering of each level: its key in the store, and its
    `num_inference_steps` N, which is smaller for a preview. `positions` (M,) are 0 at the source
    and 1 at the target, or NaN if there is no axis. `embeddings` has shape (M, d). `shift_ratio` is
    computed when levels are first compared. `chosen` is the index of the chosen level, or None.
    """

    slot: Slot
    keys: tuple[str, ...]
    steps: tuple[int, ...]
    positions: np.ndarray
    embeddings: np.ndarray
    shift_ratio: float
    chosen: int | None

    @property
    def task(self) -> int:
        """The task of the slot."""
        return self.slot.task


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


def search(
    slots: Sequence[Slot], renderer: Renderer, landmarks: Landmarks, levels: Levels
) -> tuple[list[Trajectory], Cost]:
    """Choose a level for each slot, with previews if they are requested and save steps."""
    competing = sorted({request.r for slot in slots for request in slot.levels})
    compares = any(len(slot.levels) > 1 for slot in slots)
    if compares and levels.search == "preview":
        info = renderer.engine.info
        steps = preview_steps(competing, info.steps, between=info.starts_anywhere)
        if steps < info.steps:
            return preview(slots, renderer, landmarks, levels.min_position, steps=steps)
    return exact(slots, renderer, landmarks, levels.min_position)


def exact(
    slots: Sequence[Slot],
    renderer: Renderer,
    landmarks: Landmarks,
    min_position: float | None = None,
    *,
    steps: int | None = None,
    extra_steps: int = 0,
) -> tuple[list[Trajectory], Cost]:
    """Render all levels and choose the one after the largest shift (Algorithm 1).

    With `min_position`, the position of the chosen level must also be at least this value
    (`adaptive.chosen_level`). A single level is always chosen. `steps` defaults to the steps of a
    full rendering. `extra_steps` is passed to `Renderer.ensure`. Raise InvalidValueError, naming
    the pair, if levels are to be compared but source and target coincide.
    """
    steps = steps or renderer.engine.info.steps
    requests = distinct(slots)
    cost = renderer.ensure(requests, steps=steps, extra_steps=extra_steps)
    rendered = _embedded(requests, renderer, landmarks.backbone, steps)
    trajectories = [
        _chosen_by(_trajectory(slot, rendered, landmarks, steps), min_position) for slot in slots
    ]
    return trajectories, cost


def preview(
    slots: Sequence[Slot],
    renderer: Renderer,
    landmarks: Landmarks,
    min_position: float | None = None,
    *,
    steps: int = PREVIEW_STEPS,
    unclear: float = UNCLEAR,
) -> tuple[list[Trajectory], Cost]:
    """Choose levels by previews of `steps` denoising steps and render the chosen ones in full.

    If the largest jump is less than `unclear` times the second largest, the levels before and after
    both jumps are rendered in full, and the largest jump between these levels decides. With
    `min_position`, the level that the previews choose is also rendered in full, and the first of
    the fully rendered levels whose position reaches `min_position` is kept.
    """
    full_steps = renderer.engine.info.steps
    quick, cost = exact(
        slots,
        renderer,
        landmarks,
        min_position,
        steps=steps,
        extra_steps=_mean_steps(slots, full_steps),
    )
    decisive = [
        sorted({*finalists(trajectory.positions), *_chosen(trajectory)})
        if trajectory.shift_ratio < unclear
        else _chosen(trajectory)
        for trajectory in quick
    ]
    finals = [
        Slot(trajectory.task, tuple(trajectory.slot.levels[level] for level in levels))
        for trajectory, levels in zip(quick, decisive, strict=True)
    ]
    requests = distinct(finals)
    cost += renderer.ensure(requests, steps=full_steps, extra_steps=None)
    rendered = _embedded(requests, renderer, landmarks.backbone, full_steps)
    trajectories = [
        _in_full(trajectory, levels, _trajectory(final, rendered, landmarks, full_steps))
        for trajectory, levels, final in zip(quick, decisive, finals, strict=True)
    ]
    return [
        replace(t, chosen=chosen_level(t.positions, min_position=min_position, among=levels))
        if len(levels) > 1
        else t
        for t, levels in zip(trajectories, decisive, strict=True)
    ], cost


def preview_steps(ratios: Sequence[float], full: int, *, between: bool) -> int:
    """Return the number of preview steps with which every level gives a different image.

    This is PREVIEW_STEPS for a generator that can start `between` two of its steps. Otherwise it is
    the smallest multiple of PREVIEW_STEPS that gives all levels different numbers of steps, or
    `full` if no smaller number does.
    """
    if between:
        return min(PREVIEW_STEPS, full)
    for steps in range(PREVIEW_STEPS, full, PREVIEW_STEPS):
        if len({denoising_steps(r, steps) for r in ratios}) == len(ratios):
            return steps
    return full


def kept_images(trajectories: Sequence[Trajectory], renderer: Renderer) -> Examples:
    """Return the chosen images as examples, labelled with their target classes."""
    chosen = [(t, level) for t in trajectories for level in _chosen(t)]
    return Examples(
        Pictures(renderer.store.image, [t.keys[level] for t, level in chosen]),
        np.stack([t.embeddings[level] for t, level in chosen]),
        [t.slot.levels[level].target_label for t, level in chosen],
    )


def predicted_target(
    trajectories: Sequence[Trajectory], classifiers: Mapping[int, Classifier], renderer: Renderer
) -> list[np.ndarray]:
    """Return, for each trajectory, whether its task's classifier predicts the target (M, bool)."""
    predicted: list[np.ndarray] = [np.zeros(0, bool)] * len(trajectories)
    for task in sorted({t.task for t in trajectories}):
        rows = [i for i, t in enumerate(trajectories) if t.task == task]
        members = [trajectories[i] for i in rows]
        images = Pictures(renderer.store.image, [key for t in members for key in t.keys])
        targets = [request.target_label for t in members for request in t.slot.levels]
        examples = Examples(images, np.concatenate([t.embeddings for t in members]), targets)
        right = predict(classifiers[task], examples) == np.array(targets)
        ends = np.cumsum([len(t.keys) for t in members])[:-1]
        for i, part in zip(rows, np.split(right, ends), strict=True):
            predicted[i] = part
    return predicted


def as_table(trajectories: Sequence[Trajectory], predicted: Sequence[np.ndarray]) -> pd.DataFrame:
    """Return a table with one row per level and the columns of TRAJECTORIES and of the requests.

    `predicted` is the result of `predicted_target` for each trajectory.
    """
    rows = [
        {
            **vars(request),
            "task": trajectory.task,
            "level": level,
            "key": trajectory.keys[level],
            "steps": trajectory.steps[level],
            "position": trajectory.positions[level],
            "shift_ratio": trajectory.shift_ratio,
            "chosen": level == trajectory.chosen,
            "predicted_target": right[level],
            "embedding": trajectory.embeddings[level],
        }
        for trajectory, right in zip(trajectories, predicted, strict=True)
        for level, request in enumerate(trajectory.slot.levels)
    ]
    return pd.DataFrame(rows) if rows else empty({**_REQUEST_COLUMNS, **TRAJECTORIES})


_Rendered = Mapping[Request, tuple[str, np.ndarray]]
"""The key and the embedding (d,) of each request's image."""


def _embedded(
    requests: Sequence[Request], renderer: Renderer, backbone: ImageModel, steps: int
) -> _Rendered:
    """Return the keys and embeddings of images in the store."""
    keys = {request: renderer.key(request, steps) for request in requests}
    names = sorted(set(keys.values()))
    embeddings = embed(Pictures(renderer.store.image, names), model=backbone)
    by_key = dict(zip(names, embeddings, strict=True))
    return {request: (key, by_key[key]) for request, key in keys.items()}


def _trajectory(slot: Slot, rendered: _Rendered, landmarks: Landmarks, steps: int) -> Trajectory:
    """Compute the positions of the levels, and choose the first level provisionally."""
    z = np.stack([rendered[request][1] for request in slot.levels])
    return Trajectory(
        slot=slot,
        keys=tuple(rendered[request][0] for request in slot.levels),
        steps=(steps,) * len(slot.levels),
        positions=_positions(slot, z, landmarks),
        embeddings=z,
        shift_ratio=float("nan"),
        chosen=0,
    )


def _chosen_by(trajectory: Trajectory, min_position: float | None) -> Trajectory:
    """Choose a level by the positions of a trajectory, if it has several levels."""
    along = trajectory.positions
    if len(along) == 1:
        return trajectory
    return replace(
        trajectory,
        shift_ratio=shift_ratio(along),
        chosen=chosen_level(along, min_position=min_position),
    )


def _positions(slot: Slot, z: np.ndarray, landmarks: Landmarks) -> np.ndarray:
    """Return the positions (M,) of embeddings (M, d); NaN unless the source has another class."""
    first = slot.levels[0]
    nowhere = np.full(len(z), np.nan)
    if first.source_id is None or first.source_label == first.target_label:
        return nowhere
    z_source = landmarks.sources[first.source_id]
    z_target = landmarks.targets[slot.task, first.target_label]
    try:
        return axis_positions(z, z_source, z_target)
    except InvalidValueError as error:
        if len(z) == 1:  # there is nothing to compare
            return nowhere
        pair = f"{first.source_label} ({first.source_id}) → {first.target_label}"
        raise InvalidValueError(f"GeNIe-Ada cannot compare levels for {pair}: {error}") from None


def _in_full(quick: Trajectory, levels: Sequence[int], full: Trajectory) -> Trajectory:
    """Return the trajectory of previews with `levels` replaced by their full renderings.

    If `levels` has one entry, the previews chose this level, and it keeps its preview position.
    """
    along, z = quick.positions.copy(), quick.embeddings.copy()
    keys, steps = list(quick.keys), list(quick.steps)
    for i, level in enumerate(levels):
        keys[level], steps[level], z[level] = full.keys[i], full.steps[i], full.embeddings[i]
        if len(levels) > 1:
            along[level] = full.positions[i]
    return replace(quick, keys=tuple(keys), steps=tuple(steps), positions=along, embeddings=z)


def _chosen(trajectory: Trajectory) -> list[int]:
    return [] if trajectory.chosen is None else [trajectory.chosen]


def _mean_steps(slots: Sequence[Slot], full: int) -> int:
    """Return the mean guided steps for rendering a level in full, summed over distinct slots."""
    distinct_levels = {slot.levels for slot in slots}
    return sum(
        sum(denoising_steps(q.r, full) for q in levels) // len(levels) for levels in distinct_levels
    )
