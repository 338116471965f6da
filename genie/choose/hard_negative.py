"""A source image edited towards a target class, with its noise levels and provenance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from genie.choose.search import Trajectory
from genie.plan.requests import Slot
from genie.render.loop import Renderer

Landmark = Literal["examples", "txt2img"] | None
"""Images whose mean embedding is the target's landmark; None if no levels were compared."""


@dataclass(frozen=True, eq=False)
class HardNegative:
    """A source image edited towards a target class.

    - `image`: the chosen RGB image; `r`: its noise ratio, in (0, 1]
    - `target`: the class towards which the image was edited, which is its label
    - `source`: the name of its source, or the id of the source image
    - `levels`: [(r, image), ...] for all levels that competed, in ascending r
    - `positions`: (M,) float, the position of each level between source (0) and target (1); NaN if
      no levels were compared
    - `shift_ratio`: the largest shift divided by the second largest; higher means a clearer choice
    - `landmark`: the kind of images whose mean embedding is the target's landmark: "examples",
      "txt2img" if there were no examples, or None without positions; `examples` contains these
      images
    - `prompt`, `negative_prompt`, `key`: the prompts of the image, and its key in the store
    """

    image: Image.Image
    r: float
    target: str
    source: str
    levels: list[tuple[float, Image.Image]]
    positions: np.ndarray
    shift_ratio: float
    landmark: Landmark
    examples: Sequence[Image.Image]
    prompt: str
    negative_prompt: str
    key: str


def hard_negative(
    trajectory: Trajectory,
    renderer: Renderer,
    *,
    landmark: Landmark = None,
    examples: Sequence[Image.Image] = (),
) -> HardNegative:
    """Return the hard negative of a trajectory."""
    requests = trajectory.slot.levels
    images = [renderer.store.image(key) for key in trajectory.keys]
    level = trajectory.chosen or 0
    request = requests[level]
    return HardNegative(
        image=images[level],
        r=request.r,
        target=request.target_label,
        source=str(request.source_label),
        levels=[(q.r, image) for q, image in zip(requests, images, strict=True)],
        positions=trajectory.positions,
        shift_ratio=trajectory.shift_ratio,
        landmark=landmark,
        examples=examples,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        key=trajectory.keys[level],
    )


def without_positions(slot: Slot, renderer: Renderer) -> HardNegative:
    """Return the hard negative of a slot with a single level; it has no positions."""
    steps = renderer.engine.info.steps
    nowhere = np.full(1, np.nan)
    return hard_negative(
        Trajectory(
            slot=slot,
            keys=(renderer.key(slot.levels[0], steps),),
            steps=(steps,),
            positions=nowhere,
            embeddings=nowhere[:, None],
            shift_ratio=np.nan,
            chosen=0,
        ),
        renderer,
    )
