"""CLIP models (dual encoders) from transformers folders, which embed images and texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, CLIPModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from genie.classify.backbone import ImageModel, check_folder, image_model, vectors
from genie.core.errors import FailedError, one_line


@dataclass(frozen=True)
class Clip:
    """A frozen dual encoder.

    `vision` is the same model with its image preprocessing and cache.
    """

    vision: ImageModel
    tokenizer: Any


class _ImageTower(torch.nn.Module):
    """A CLIP image encoder that returns exp(logit scale) times the unit image embeddings, (B, d).

    A linear layer on top, with prompt embeddings as weights, computes CLIP's zero-shot logits.
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
    folder: Path, *, argument: str, device: str | None = None, cache: Path | None = None
) -> Clip:
    """Load a CLIP model (dual encoder) from a transformers folder.

    Raise MissingFileError, naming `argument`, if the folder or its weights are missing, and
    FailedError if the folder does not contain a CLIP model with a tokenizer.
    """
    check_folder(folder, argument=argument)
    options = {"local_files_only": True, "trust_remote_code": False}
    loader: Any = CLIPModel
    try:
        kind = AutoConfig.from_pretrained(folder, **options).model_type
        if kind != "clip":  # it would load slowly, with random weights
            raise ValueError(f"the model_type in its config.json is {kind}")
        model, report = loader.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        if lost := sorted(report["missing_keys"]):
            raise ValueError(f"its checkpoint lacks {lost[0]}, which would be random")
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise FailedError(
            f"must be a CLIP model with its tokenizer, but {folder}: {one_line(error)}",
            argument=argument,
            remedy=f"download one with `genie fetch openai/clip-vit-base-patch32 {folder}`",
        ) from error
    return Clip(image_model(model, folder, device, cache), tokenizer)


def load_image_tower(folder: Path, *, argument: str, device: str | None = None) -> ImageModel:
    """Load the image encoder of a CLIP model for fine-tuning; see `load_clip` for the errors."""
    model = load_clip(folder, argument=argument, device=device).vision
    assert isinstance(model.model, CLIPModel)
    return replace(model, model=_ImageTower(model.model))


def embed_images(images: Sequence[Image.Image], clip: Clip) -> np.ndarray:
    """Return CLIP's image embeddings as float32 unit vectors (n, d), from the cache if possible."""
    model: Any = clip.vision.model

    def unit(batch: torch.Tensor) -> torch.Tensor:
        projected = model.visual_projection(model.vision_model(batch).pooler_output)
        return torch.nn.functional.normalize(projected, dim=-1)

    return vectors(images, clip.vision, unit, kind="clip")


@torch.inference_mode()
def embed_texts(texts: Sequence[str], clip: Clip) -> np.ndarray:
    """Return CLIP's text embeddings as float32 unit vectors (n, d), comparable with images'."""
    model: Any = clip.vision.model
    tokens = clip.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    hidden = model.text_model(**tokens.to(clip.vision.device)).pooler_output
    unit = torch.nn.functional.normalize(model.text_projection(hidden), dim=-1)
    return unit.float().cpu().numpy()


def zero_shot(images: Sequence[Image.Image], prompts: Mapping[str, str], clip: Clip) -> list[str]:
    """Return the class whose prompt is nearest to each image; `prompts` maps classes to prompts."""
    similarity = embed_images(images, clip) @ embed_texts(list(prompts.values()), clip).T
    classes = list(prompts)
    return [classes[i] for i in similarity.argmax(1)]
