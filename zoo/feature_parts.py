"""The image networks: the supervised oracle and the self-supervised backbone."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, normalize
from transformers import (
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetModel,
    ViTImageProcessor,
)

from zoo.fashion_mnist import CLASSES, Part
from zoo.generator_parts import pixels
from zoo.loop import STATE, pick_device, train

ORACLE_STEPS, ORACLE_BATCH, ORACLE_RATE = 4_000, 128, 2e-3
BACKBONE_STEPS, BACKBONE_BATCH, BACKBONE_RATE = 3_000, 128, 2e-3
TEMPERATURE = 0.2
PROJECTION = 64


def train_oracle(
    part: Part, *, steps: int = ORACLE_STEPS, state: Path = STATE
) -> RegNetForImageClassification:
    """Train the oracle, a supervised RegNet.

    Its architecture differs from the backbone's. It sees no image of the support or query sets.
    """
    torch.manual_seed(0)
    device = pick_device()
    config = RegNetConfig(
        embedding_size=32,
        hidden_sizes=[64, 128, 256],
        depths=[1, 2, 1],
        groups_width=32,
        layer_type="y",
        downsample_in_first_stage=False,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
    )
    model = RegNetForImageClassification(config).to(device)
    images, labels = torch.from_numpy(part.images), torch.from_numpy(part.labels)

    def loss(draw: torch.Generator) -> Tensor:
        index = torch.randint(len(images), (ORACLE_BATCH,), generator=draw)
        batch = shift_and_flip(pixels(images[index]), draw).to(device)
        return cross_entropy(model(batch).logits, labels[index].to(device), label_smoothing=0.05)

    trained = train(
        model,
        loss,
        name="oracle",
        steps=steps,
        rate=ORACLE_RATE,
        ema=0.999,
        half=True,
        state=state,
    )
    assert isinstance(trained, RegNetForImageClassification)
    return trained


class Contrastive(nn.Module):
    """The backbone with a projection head that is discarded after training."""

    def __init__(self) -> None:
        super().__init__()
        config = ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 128, 256],
            depths=[1, 1, 1, 1],
            layer_type="basic",
        )
        self.backbone = ResNetModel(config)
        width = config.hidden_sizes[-1]
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))

    def forward(self, images: Tensor) -> Tensor:
        """Return unit vectors (n, PROJECTION)."""
        return normalize(self.head(self.backbone(images).pooler_output.flatten(1)), dim=1)


def train_backbone(part: Part, *, steps: int = BACKBONE_STEPS, state: Path = STATE) -> ResNetModel:
    """Train the backbone with SimCLR (Chen et al. 2020), without labels."""
    torch.manual_seed(0)
    device = pick_device()
    model = Contrastive().to(device)
    images = torch.from_numpy(part.images)

    def loss(draw: torch.Generator) -> Tensor:
        batch = pixels(images[torch.randint(len(images), (BACKBONE_BATCH,), generator=draw)])
        views = torch.cat([random_view(batch, draw), random_view(batch, draw)]).to(device)
        return contrastive_loss(model(views).float())

    trained = train(
        model, loss, name="backbone", steps=steps, rate=BACKBONE_RATE, half=True, state=state
    )
    assert isinstance(trained, Contrastive)
    return trained.backbone


def contrastive_loss(vectors: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Compute the NT-Xent loss (SimCLR eq. 1) of unit `vectors` (2n, d).

    Rows i and i + n are views of the same image.
    """
    similarity = vectors @ vectors.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(vectors), device=vectors.device).roll(len(vectors) // 2)
    return cross_entropy(similarity, partner)


def shift_and_flip(images: Tensor, draw: torch.Generator) -> Tensor:
    """Shift each image by up to 2 pixels and flip it horizontally with probability 1/2."""
    n = len(images)
    offset = (torch.rand(n, 2, generator=draw) * 2 - 1) * 2 / 16
    return _warp(images, scale=torch.ones(n), offset=offset, mirror=_signs(n, draw))


def random_view(images: Tensor, draw: torch.Generator) -> Tensor:
    """Apply a random crop of 35% to 100% of the area, and random flip, brightness and contrast."""
    n = len(images)
    scale = (torch.rand(n, generator=draw) * 0.65 + 0.35).sqrt()
    offset = (torch.rand(n, 2, generator=draw) * 2 - 1) * (1 - scale)[:, None]
    views = _warp(images, scale=scale, offset=offset, mirror=_signs(n, draw))
    gain, shift = torch.rand(2, n, 1, 1, 1, generator=draw)
    return ((views + 1) * (0.6 + 0.8 * gain) - 1 + 0.4 * (shift - 0.5)).clamp(-1, 1)


def _signs(n: int, draw: torch.Generator) -> Tensor:
    return torch.randint(2, (n,), generator=draw) * 2.0 - 1


def _warp(images: Tensor, *, scale: Tensor, offset: Tensor, mirror: Tensor) -> Tensor:
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale * mirror, scale
    theta[:, :, 2] = offset
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    grey = images[:, :1]  # the three channels are equal
    warped = grid_sample(grey + 1, grid[:, :, :, :], align_corners=False) - 1
    return warped.expand(-1, 3, -1, -1).contiguous()


def save_features(model: RegNetForImageClassification | ResNetModel, folder: Path) -> None:
    """Save a transformers folder in half precision, with the image processor used in training."""
    model.half().save_pretrained(folder, safe_serialization=True)
    processor = ViTImageProcessor(
        size={"height": 32, "width": 32},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    processor.save_pretrained(folder)
