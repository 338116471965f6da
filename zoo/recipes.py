"""The recipes of the bundled models: data, sizes and training schedules."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from zoo import cifar10, fashion_mnist
from zoo.parts import Parts


@dataclass(frozen=True)
class Training:
    """Optimiser steps, batch size and peak learning rate of a part."""

    steps: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """The recipe of a folder of models: data, sizes and training schedules.

    `data`, `prompts`, `out` and `state` are the folders for the evaluation pools, the captions of
    the support pool, the models, and the checkpoints. `vae_channels`, `unet_channels` and
    `oracle_channels` are widths by resolution. `perceptual` is the weight of the LPIPS distance in
    the autoencoder's loss. `oracle_size` and `backbone_size` are the sides in pixels to which these
    networks enlarge images, because their first layers downsample by 2 and 4. `cutout` is the side
    of the square that is blanked in the oracle's training images. `velocity` selects velocity
    prediction with min-SNR weights in a denoiser with less attention, instead of noise prediction.
    `mirrored` adds mirror images to the latents, and `colour` varies the colours of the backbone's
    views.
    """

    load: Callable[[Path | None], Parts]
    classes: tuple[str, ...]
    superclass: dict[str, str]
    data: Path
    prompts: Path
    out: Path
    state: Path
    vae: Training
    unet: Training
    oracle: Training
    backbone: Training
    clip: Training
    guidance: float
    vae_channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 4
    unet_channels: tuple[int, ...] = (64, 128)
    unet_average: float = 0.999
    unet_decay: float = 1.0
    unet_snapshots: int = 0
    oracle_channels: tuple[int, ...] = (64, 128, 256)
    oracle_depths: tuple[int, ...] = (1, 2, 1)
    oracle_group: int = 32
    oracle_size: int = 32
    cutout: int = 0
    backbone_channels: tuple[int, ...] = (32, 64, 128, 256)
    backbone_size: int = 32
    clip_width: int = 128
    kl_weight: float = 1e-6
    perceptual: float = 0.0
    velocity: bool = False
    mirrored: bool = False
    colour: bool = False


FASHION = Recipe(
    load=fashion_mnist.load_parts,
    classes=fashion_mnist.CLASSES,
    superclass={
        "T-shirt/top": "top",
        "trouser": "garment",
        "pullover": "top",
        "dress": "garment",
        "coat": "top",
        "sandal": "shoe",
        "shirt": "top",
        "sneaker": "shoe",
        "bag": "accessory",
        "ankle boot": "shoe",
    },
    data=fashion_mnist.BUNDLED,
    prompts=Path("prompts"),
    out=Path("zoo"),
    state=Path(".genie/zoo"),
    vae=Training(2_500, 64, 2e-3),
    unet=Training(5_600, 64, 8e-4),
    oracle=Training(4_000, 128, 2e-3),
    backbone=Training(3_000, 128, 2e-3),
    clip=Training(1_200, 128, 1e-3),
    guidance=3.0,
)

PHOTOGRAPHS = Recipe(
    load=cifar10.load_parts,
    classes=cifar10.CLASSES,
    superclass={
        "airplane": "vehicle",
        "automobile": "vehicle",
        "bird": "animal",
        "cat": "pet",
        "deer": "animal",
        "dog": "pet",
        "frog": "animal",
        "horse": "animal",
        "ship": "vehicle",
        "truck": "vehicle",
    },
    data=cifar10.OUT,
    prompts=Path("prompts/photographs"),
    out=Path("zoo/photographs"),
    state=Path(".genie/zoo/photographs"),
    vae=Training(1_500, 32, 2e-3),
    unet=Training(12_000, 128, 1e-3),
    oracle=Training(7_000, 128, 2e-3),
    backbone=Training(6_000, 128, 2e-3),
    clip=Training(3_000, 128, 1e-3),
    guidance=4.5,
    vae_channels=(24, 48, 96),
    latent_channels=8,
    unet_channels=(96, 96),
    unet_average=0.998,
    unet_decay=0.25,
    unet_snapshots=2_000,
    oracle_channels=(32, 64, 128, 256),
    oracle_depths=(1, 1, 2, 1),
    oracle_group=256,
    oracle_size=64,
    cutout=12,
    backbone_channels=(32, 64, 96, 176),
    backbone_size=64,
    clip_width=96,
    perceptual=2.0,
    velocity=True,
    mirrored=True,
    colour=True,
)

PHOTOGRAPHS_GPU = replace(
    PHOTOGRAPHS,  # the same models, trained for ten minutes on a GPU, not hours on two cores
    state=Path(".genie/zoo/photographs-gpu"),
    vae=Training(4_000, 256, 2e-3),
    unet=Training(6_000, 1_024, 1e-3),
    oracle=Training(3_000, 512, 3e-3),
    backbone=Training(2_000, 512, 2e-3),
    clip=Training(1_500, 512, 1e-3),
)

RECIPES = {"fashion": FASHION, "photographs": PHOTOGRAPHS, "photographs-gpu": PHOTOGRAPHS_GPU}
