"""Training-time augmentation with kornia: copies of real images and mixtures of two images.

Copies replace images that a method did not generate, so all methods train on the same number of
labelled samples (paper, section 4.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import kornia.augmentation as K
import numpy as np
import torch
from PIL import Image

from genie.classify.fractals import fractal


@dataclass(frozen=True)
class Copies:
    """Copied images and their training labels.

    Image `rows[i]` has the label `labels[i]` with weight `weights[i]`. A mixture of two images has
    two entries, whose weights sum to one.
    """

    images: Sequence[Image.Image]
    rows: Sequence[int]
    labels: Sequence[str]
    weights: Sequence[float]


@dataclass(frozen=True)
class Mixture:
    """A generated image mixed with a real image; `share` is the generated image's share."""

    image: Image.Image
    level: str  # pixel, patch or half
    share: float


Copier = Callable[[Sequence[Image.Image], Sequence[str], int], Copies]
"""A function of RGB images of the same size, their labels and a seed; it copies each image once."""

Mixer = Callable[[Sequence[Image.Image], Sequence[Image.Image], int], Sequence[Mixture]]
"""A function of generated images, real images and a seed; it mixes the images pair by pair.

The two sequences have the same length, and all images have the same size.
"""

_GRID = 4  # patches per side
_RAMP = 20 / 256  # of the side, where two halves meet (DiffuseMix)
_FRACTAL = 0.2  # share of the fractal (DiffuseMix)


def weak(batch: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Return a weakly augmented copy of a batch (B, 3, H, W): random crops and flips.

    Pixels may have any range of values. Crops keep at least 80% of the area. The paper's "Weak"
    (section 4.1) crops down to 20%, which suits photographs. A fifth of a 28 x 28 image does not
    show its class, so gains would be measured against a weakened baseline.
    """
    return _seeded(K.AugmentationSequential(*_weak_parts(batch)), seed)(batch)


def unchanged_copies(images: Sequence[Image.Image], labels: Sequence[str], seed: int) -> Copies:
    """Return the images unchanged: no augmentation, but the same number of samples."""
    return Copies(images, range(len(images)), labels, [1.0] * len(images))


def weak_copies(images: Sequence[Image.Image], labels: Sequence[str], seed: int) -> Copies:
    """Return one weakly augmented copy of each image."""
    if not images:
        return Copies([], [], [], [])
    copies = _pictures(weak(_batch(images), seed=seed))
    return Copies(copies, range(len(images)), labels, [1.0] * len(images))


def strong_copies(images: Sequence[Image.Image], labels: Sequence[str], seed: int) -> Copies:
    """Return copies with the paper's "Strong": "Weak", then colour jitter, greyscale and blur.

    Strengths and probabilities follow SimCLR (Chen et al. 2020), as in UniSiam.
    """
    if not images:
        return Copies([], [], [], [])
    batch = _batch(images)
    # an odd kernel of about a tenth of the image, as in SimCLR
    kernel = 2 * (min(batch.shape[-2:]) // 20) + 1
    augment = K.AugmentationSequential(
        *_weak_parts(batch),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5),
    )
    copies = _pictures(_seeded(augment, seed)(batch))
    return Copies(copies, range(len(images)), labels, [1.0] * len(images))


def cutmix_copies(images: Sequence[Image.Image], labels: Sequence[str], seed: int) -> Copies:
    """Return CutMix copies (Yun et al. 2019): a box from another image, labels weighted by area."""
    mix = K.RandomCutMixV2(data_keys=["input", "class"], use_correct_lambda=True)
    return _mixed(images, labels, lambda b, y: _own_share(_seeded(mix, seed)(b, y)))


def mixup_copies(images: Sequence[Image.Image], labels: Sequence[str], seed: int) -> Copies:
    """Return MixUp copies (Zhang et al. 2018): images and labels blended by Beta(1, 1)."""
    mix = K.RandomMixUpV2(data_keys=["input", "class"])
    return _mixed(images, labels, lambda b, y: _seeded(mix, seed)(b, y))


def pixel_and_patch_mix(
    generated: Sequence[Image.Image], real: Sequence[Image.Image], seed: int
) -> list[Mixture]:
    """Mix pairs of images alternately at pixel level and at patch level (DiffCoRe-Mix).

    The share λ of the generated image g is drawn from Beta(1, 1). At pixel level, the mixture with
    the real image x is λ g + (1 - λ) x. At patch level, round(16 λ) patches of a 4 x 4 grid, at
    least 1 and at most 15, come from g, and the share is their fraction of the area.
    """
    draw = np.random.default_rng(seed)
    return [
        (_patch_mixture if i % 2 else _pixel_mixture)(np.asarray(g), np.asarray(x), draw)
        for i, (g, x) in enumerate(zip(generated, real, strict=True))
    ]


def _pixel_mixture(generated: np.ndarray, real: np.ndarray, draw: np.random.Generator) -> Mixture:
    share = float(draw.beta(1, 1))
    blend = share * generated.astype(float) + (1 - share) * real
    return Mixture(Image.fromarray(blend.round().astype(np.uint8)), "pixel", share)


def _patch_mixture(generated: np.ndarray, real: np.ndarray, draw: np.random.Generator) -> Mixture:
    height, width = generated.shape[:2]
    count = min(max(round(float(draw.beta(1, 1)) * _GRID**2), 1), _GRID**2 - 1)
    taken = draw.permutation(_GRID**2) < count
    rows, columns = np.arange(height) * _GRID // height, np.arange(width) * _GRID // width
    mask = taken.reshape(_GRID, _GRID)[rows][:, columns]
    image = Image.fromarray(np.where(mask[..., None], generated, real))
    return Mixture(image, "patch", float(mask.mean()))


def half_and_fractal_mix(
    generated: Sequence[Image.Image], real: Sequence[Image.Image], seed: int
) -> list[Mixture]:
    """Join half of each real image to the other half of its generated image (DiffuseMix).

    The generated half (left, right, upper or lower) is random. The halves are blended over a ramp
    of 20/256 of the side. Then a fractal is blended in with weight 1/5. Both images have the same
    class, so `share` is 1.
    """
    draw = np.random.default_rng(seed)
    return [
        Mixture(_with_fractal(_joined(np.asarray(g), np.asarray(x), draw), draw), "half", 1.0)
        for g, x in zip(generated, real, strict=True)
    ]


def _joined(generated: np.ndarray, real: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return a real and a generated half joined to one image, as floats (h, w, 3)."""
    height, width = generated.shape[:2]
    side = int(draw.integers(4))  # 0 left, 1 right, 2 upper, 3 lower half generated
    length = height if side > 1 else width
    place = (np.arange(length) + 0.5) / length - 0.5
    share = np.clip(0.5 - place / _RAMP, 0, 1)  # of the generated image: 1 at the start, then 0
    share = share if side % 2 == 0 else share[::-1]
    share = share[:, None, None] if side > 1 else share[None, :, None]
    joined: np.ndarray = share * generated + (1 - share) * real.astype(float)
    return joined


def _with_fractal(image: np.ndarray, draw: np.random.Generator) -> Image.Image:
    blend = (1 - _FRACTAL) * image + _FRACTAL * fractal(draw, *image.shape[:2])
    return Image.fromarray(blend.round().astype(np.uint8))


def _own_share(mixed: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert the labels of kornia's CutMix to the format of its MixUp.

    CutMix gives the share of the first image, and MixUp gives the share of the second. CutMix
    labels also have an extra leading axis of length one, for repeated mixing.
    """
    batch, labels = mixed
    first, second, share = labels[0].unbind(1)
    return batch, torch.stack([first, second, 1 - share], 1)


def _mixed(
    images: Sequence[Image.Image],
    labels: Sequence[str],
    mix: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> Copies:
    if not images:
        return Copies([], [], [], [])
    batch, targets = mix(_batch(images), torch.arange(len(images)))
    first, second, share = targets.T.tolist()
    rows = range(len(images))
    return Copies(
        _pictures(batch),
        [*rows, *rows],
        [labels[int(i)] for i in (*first, *second)],
        [*(1 - s for s in share), *share],
    )


def _weak_parts(batch: torch.Tensor) -> list[Any]:
    height, width = batch.shape[-2:]
    return [
        K.RandomResizedCrop((height, width), scale=(0.8, 1.0), ratio=(0.9, 1.1)),
        K.RandomHorizontalFlip(p=0.5),
    ]


def _seeded(augment: torch.nn.Module, seed: int) -> Callable[..., Any]:
    def run(*inputs: torch.Tensor) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return augment(*inputs)

    return run


def _batch(images: Sequence[Image.Image]) -> torch.Tensor:
    """Stack images to (B, 3, H, W) in [0, 1]."""
    stack = np.stack([np.asarray(i) for i in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


def _pictures(batch: torch.Tensor) -> list[Image.Image]:
    values = batch.clamp(0, 1).mul(255).round().byte()
    return [Image.fromarray(a) for a in values.permute(0, 2, 3, 1).contiguous().numpy()]


COPIERS: dict[str, Copier] = {
    "unchanged": unchanged_copies,
    "weak": weak_copies,
    "strong": strong_copies,
    "cutmix": cutmix_copies,
    "mixup": mixup_copies,
}
"""Functions that copy real images, by the names that methods use."""

MIXERS: dict[str, Mixer] = {
    "pixel-and-patch": pixel_and_patch_mix,
    "half-and-fractal": half_and_fractal_mix,
}
"""Functions that mix generated images with real ones, by the names that methods use."""
