"""Training-time augmentation, by kornia."""

from collections.abc import Sequence

import kornia.augmentation as K
import numpy as np
import torch
from PIL import Image


def weak(batch: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Weakly augmented copy of (B, 3, H, W): a crop of at least 80% of the area, and a flip.

    The paper's "Weak" (section 4.1: random resized crop and horizontal flip).
    """
    height, width = batch.shape[-2:]
    augment = K.AugmentationSequential(
        K.RandomResizedCrop((height, width), scale=(0.8, 1.0), ratio=(0.9, 1.1)),
        K.RandomHorizontalFlip(p=0.5),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return augment(batch)


def weak_copies(images: Sequence[Image.Image], *, seed: int) -> list[Image.Image]:
    """One weakly augmented copy of each RGB image (all of one size)."""
    if not images:
        return []
    batch = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2)
    copies = weak(batch.float() / 255, seed=seed).clamp(0, 1).mul(255).round().byte()
    return [Image.fromarray(a) for a in copies.permute(0, 2, 3, 1).numpy()]
