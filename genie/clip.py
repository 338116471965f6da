"""CLIP-class dual encoders from transformers folders: images and texts in one space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from genie.backbones import ImageModel, check_folder, image_model, vectors
from genie.errors import GenieError


@dataclass(frozen=True)
class Clip:
    """A frozen dual encoder; `images` says how its pixels are prepared and cached."""

    images: ImageModel
    tokenizer: Any


class _ImageTower(torch.nn.Module):
    """The image side of a CLIP: exp(logit scale) times the unit image embedding, (B, d).

    A linear layer of prompt embeddings on it gives CLIP's own zero-shot logits.
    """

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = model.visual_projection
        self.logit_scale = model.logit_scale

    def forward(self, batch: torch.Tensor) -> BaseModelOutputWithPooling:
        projected = self.visual_projection(self.vision_model(batch).pooler_output)
        scaled = self.logit_scale.exp() * torch.nn.functional.normalize(projected, dim=-1)
        return BaseModelOutputWithPooling(pooler_output=scaled)


def load_clip(
    folder: Path, *, parameter: str, device: str | None = None, cache: Path | None = None
) -> Clip:
    """The dual encoder of a transformers folder; `parameter` is named where it is none.

    Raises GenieError if the folder, its weights or its tokenizer are missing, or it is no CLIP.
    """
    check_folder(folder, parameter=parameter)
    try:
        model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise GenieError(
            f"{parameter} must be a CLIP with its tokenizer, {folder} does not load as one: "
            f"{' '.join(str(error).split())}; bring one with `genie fetch "
            f"openai/clip-vit-base-patch32 {folder}`"
        ) from error
    return Clip(image_model(model, folder, device, cache), tokenizer)


def load_image_tower(folder: Path, *, parameter: str, device: str | None = None) -> ImageModel:
    """The image side of a CLIP folder as a model to fine-tune (errors as `load_clip`)."""
    model = load_clip(folder, parameter=parameter, device=device).images
    assert isinstance(model.model, CLIPModel)
    return replace(model, model=_ImageTower(model.model))


def embed_images(images: Sequence[Image.Image], clip: Clip) -> np.ndarray:
    """(n, d) float32 unit vectors."""
    model: Any = clip.images.model

    def unit(batch: torch.Tensor) -> torch.Tensor:
        projected = model.visual_projection(model.vision_model(batch).pooler_output)
        return torch.nn.functional.normalize(projected, dim=-1)

    return vectors(images, clip.images, unit, kind="clip")


@torch.inference_mode()
def embed_texts(texts: Sequence[str], clip: Clip) -> np.ndarray:
    """(n, d) float32 unit vectors, in the space of `embed_images`."""
    model: Any = clip.images.model
    tokens = clip.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    hidden = model.text_model(**tokens.to(clip.images.device)).pooler_output
    unit = torch.nn.functional.normalize(model.text_projection(hidden), dim=-1)
    return unit.float().cpu().numpy()


def zero_shot(images: Sequence[Image.Image], prompts: Mapping[str, str], clip: Clip) -> list[str]:
    """The class of the prompt nearest to each image, of `prompts` by class."""
    similarity = embed_images(images, clip) @ embed_texts(list(prompts.values()), clip).T
    classes = list(prompts)
    return [classes[i] for i in similarity.argmax(1)]
