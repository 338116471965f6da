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

from zoo.generator_parts import pixels
from zoo.loop import pick_device, train
from zoo.parts import Part
from zoo.recipes import Recipe

TEMPERATURE = 0.2
PROJECTION = 64


def train_oracle(part: Part, recipe: Recipe) -> RegNetForImageClassification:
    """Train the oracle, a supervised RegNet.

    Its architecture differs from the backbone's. No support or query image is used for training.
    """
    torch.manual_seed(0)
    device = pick_device()
    config = RegNetConfig(
        embedding_size=min(recipe.oracle_group, recipe.oracle_channels[0]),
        hidden_sizes=list(recipe.oracle_channels),
        depths=list(recipe.oracle_depths),
        groups_width=recipe.oracle_group,
        layer_type="y",
        downsample_in_first_stage=False,
        id2label=dict(enumerate(recipe.classes)),
        label2id={name: index for index, name in enumerate(recipe.classes)},
    )
    model = RegNetForImageClassification(config).to(device, memory_format=torch.channels_last)
    images, labels = torch.from_numpy(part.images), torch.from_numpy(part.labels)

    def loss(draw: torch.Generator) -> Tensor:
        index = torch.randint(len(images), (recipe.oracle.batch,), generator=draw)
        batch = pixels(images[index])
        if recipe.cutout:
            batch = cut_out(batch, draw, side=recipe.cutout)
        batch = shift_and_flip(batch, draw, size=recipe.oracle_size).to(device)
        return cross_entropy(model(batch).logits, labels[index].to(device), label_smoothing=0.05)

    trained = train(
        model,
        loss,
        name="oracle",
        steps=recipe.oracle.steps,
        rate=recipe.oracle.rate,
        ema=0.999,
        half=True,
        state=recipe.state,
    )
    assert isinstance(trained, RegNetForImageClassification)
    return trained


class Contrastive(nn.Module):
    """The backbone with a projection head that is discarded after training."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        config = ResNetConfig(
            embedding_size=32,
            hidden_sizes=list(recipe.backbone_channels),
            depths=[1, 1, 1, 1],
            layer_type="basic",
        )
        self.backbone = ResNetModel(config)
        width = config.hidden_sizes[-1]
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))

    def forward(self, images: Tensor) -> Tensor:
        """Return unit vectors (n, PROJECTION)."""
        return normalize(self.head(self.backbone(images).pooler_output.flatten(1)), dim=1)


def train_backbone(part: Part, recipe: Recipe) -> ResNetModel:
    """Train the backbone with SimCLR (Chen et al. 2020), without labels."""
    torch.manual_seed(0)
    device = pick_device()
    model = Contrastive(recipe).to(device, memory_format=torch.channels_last)
    size = recipe.backbone_size
    images = torch.from_numpy(part.images)

    def loss(draw: torch.Generator) -> Tensor:
        batch = pixels(images[torch.randint(len(images), (recipe.backbone.batch,), generator=draw)])
        views = [random_view(batch, draw, size=size, colour=recipe.colour) for _ in range(2)]
        views = torch.cat(views).to(device)
        return contrastive_loss(model(views).float())

    trained = train(
        model,
        loss,
        name="backbone",
        steps=recipe.backbone.steps,
        rate=recipe.backbone.rate,
        half=True,
        state=recipe.state,
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


def shift_and_flip(images: Tensor, draw: torch.Generator, *, size: int = 32) -> Tensor:
    """Shift each image by up to 1/16 of its side and flip it with probability 1/2.

    The returned images have `size` pixels per side.
    """
    n = len(images)
    offset = (torch.rand(n, 2, generator=draw) * 2 - 1) * 2 / 16
    return _warp(images, scale=torch.ones(n), offset=offset, mirror=_signs(n, draw), size=size)


def cut_out(images: Tensor, draw: torch.Generator, *, side: int) -> Tensor:
    """Set a square of each image to grey (Cutout, DeVries and Taylor 2017).

    The centre of the square is drawn anywhere in the image, so part of the square may lie outside.
    """
    places = torch.arange(images.shape[-1])
    centre = torch.randint(len(places), (2, len(images), 1), generator=draw)
    rows, columns = (places - centre).abs() * 2 < side
    hidden = rows[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(hidden, 0.0)


def random_view(
    images: Tensor, draw: torch.Generator, *, size: int = 32, colour: bool = False
) -> Tensor:
    """Apply a random crop of 35% to 100% of the area, with random flip, brightness and contrast.

    The views have `size` pixels per side. `colour` also scales the three channels independently and
    converts one view in five to grey, so that positive pairs cannot be matched by colour alone.
    """
    n = len(images)
    scale = (torch.rand(n, generator=draw) * 0.65 + 0.35).sqrt()
    offset = (torch.rand(n, 2, generator=draw) * 2 - 1) * (1 - scale)[:, None]
    views = _warp(images, scale=scale, offset=offset, mirror=_signs(n, draw), size=size)
    gain, shift = torch.rand(2, n, 1, 1, 1, generator=draw)
    views = (views + 1) * (0.6 + 0.8 * gain) - 1 + 0.4 * (shift - 0.5)
    return (_recoloured(views, draw) if colour else views).clamp(-1, 1)


def _recoloured(views: Tensor, draw: torch.Generator) -> Tensor:
    n = len(views)
    tinted = (views + 1) * (0.7 + 0.6 * torch.rand(n, 3, 1, 1, generator=draw)) - 1
    grey = torch.rand(n, 1, 1, 1, generator=draw) < 0.2
    return torch.where(grey, tinted.mean(1, keepdim=True), tinted)


def _signs(n: int, draw: torch.Generator) -> Tensor:
    return torch.randint(2, (n,), generator=draw) * 2.0 - 1


def _warp(
    images: Tensor, *, scale: Tensor, offset: Tensor, mirror: Tensor, size: int = 32
) -> Tensor:
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale * mirror, scale
    theta[:, :, 2] = offset
    grid = affine_grid(theta, [*images.shape[:2], size, size], align_corners=False)
    return grid_sample(images + 1, grid, align_corners=False) - 1


def save_features(
    model: RegNetForImageClassification | ResNetModel, folder: Path, *, size: int = 32
) -> None:
    """Save a transformers model in half precision, with the image processor used in training."""
    model.half().save_pretrained(folder, safe_serialization=True)
    processor = ViTImageProcessor(
        size={"height": size, "width": size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    processor.save_pretrained(folder)
