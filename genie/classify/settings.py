"""Settings for training a classifier. This module does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def _unrecorded(step: int, loss: float) -> None:
    """Ignore the loss of a training step."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings for training a classifier; heads on embeddings use only the seed.

    `head` is a key of HEADS, or "finetune" to train the whole network. `start` is a key of STARTS
    and `loss` a key of LOSSES. With `start` "prompts", the head is initialised with the embeddings
    of `prompt_of(class name)`, and `backbone` must be a CLIP model. `on_step` is called after each
    training step with the step's number and the batch's mean loss.
    """

    head: str = "logistic"
    backbone: Path = Path()
    start: str = "backbone"
    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 0.001
    loss: str = "cross-entropy"
    seed: int = 0
    prompt_of: Callable[[str], str] | None = None
    on_step: Callable[[int, float], None] = _unrecorded
