"""A small CLIP model, the dual encoder of images and prompts."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPModel, ViTImageProcessor

from zoo.feature_parts import shift_and_flip
from zoo.generator_parts import LENGTH, pixels, prompt_rows, prompts, tokenize, word_tokenizer
from zoo.loop import attention, pick_device, train
from zoo.parts import Part
from zoo.recipes import Recipe

PROJECTION = 64


def tiny_clip(recipe: Recipe) -> CLIPModel:
    """Build a CLIP model with a vision transformer for 32x32 images and a two-layer text encoder.

    The vision transformer uses patches of 4x4 pixels.
    """
    tokenizer = word_tokenizer(recipe)
    shared = {"intermediate_size": 256, "num_attention_heads": 4}
    return CLIPModel._from_config(
        CLIPModel.config_class(
            projection_dim=PROJECTION,
            vision_config={
                **shared,
                "hidden_size": recipe.clip_width,
                "num_hidden_layers": 4,
                "image_size": 32,
                "patch_size": 4,
                "projection_dim": PROJECTION,
            },
            text_config={
                **shared,
                "hidden_size": recipe.clip_width,
                "num_hidden_layers": 2,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": LENGTH,
                "projection_dim": PROJECTION,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
        )
    )


class Pairs(nn.Module):
    """Scaled similarities (n, n) between images (n, 3, 32, 32) and prompts.

    `tokens` (m, LENGTH) contains every prompt once, and `rows` (n,) is each image's prompt index.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.clip = tiny_clip(recipe)

    def forward(self, images: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        with sdpa_kernel(attention(images.device)):
            seen = self.clip.visual_projection(self.clip.vision_model(images).pooler_output)
            read = self.clip.text_projection(self.clip.text_model(tokens).pooler_output)[rows]
        return self.clip.logit_scale.exp() * normalize(seen, dim=1) @ normalize(read, dim=1).T


def train_clip(part: Part, recipe: Recipe) -> CLIPModel:
    """Train a CLIP model on images and prompts for their classes (Radford et al. 2021)."""
    torch.manual_seed(0)
    device = pick_device()
    model = Pairs(recipe).to(device)
    tokens = tokenize(word_tokenizer(recipe), prompts(recipe)).to(device)
    images, labels = torch.from_numpy(part.images), torch.from_numpy(part.labels)

    def loss(draw: torch.Generator) -> Tensor:
        index = torch.randint(len(images), (recipe.clip.batch,), generator=draw)
        batch = shift_and_flip(pixels(images[index]), draw).to(device)
        drawn = labels[index]
        rows = prompt_rows(drawn, draw, classes=len(recipe.classes))
        similarity = model(batch, tokens, rows.to(device))
        return matching_loss(similarity.float(), drawn.to(device))

    trained = train(
        model,
        loss,
        name="clip",
        steps=recipe.clip.steps,
        rate=recipe.clip.rate,
        ema=0.995,
        half=True,
        state=recipe.state,
    )
    assert isinstance(trained, Pairs)
    return trained.clip


def matching_loss(similarity: Tensor, labels: Tensor) -> Tensor:
    """Compute CLIP's symmetric cross-entropy for batches in which classes repeat.

    `similarity` is (n, n), images by prompts, and `labels` is (n,). Each image's target probability
    is divided equally among all prompts of its class (UniCL, Yang et al. 2022).
    """
    same = (labels[:, None] == labels[None]).float()
    wanted = same / same.sum(1, keepdim=True)
    return (cross_entropy(similarity, wanted) + cross_entropy(similarity.T, wanted)) / 2


def save_clip(model: CLIPModel, recipe: Recipe, folder: Path) -> None:
    """Save a transformers model in half precision, with its tokenizer and image processor."""
    model.half().save_pretrained(folder, safe_serialization=True)
    word_tokenizer(recipe).save_pretrained(folder)
    processor = ViTImageProcessor(
        size={"height": 32, "width": 32},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    processor.save_pretrained(folder)
