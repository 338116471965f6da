"""Frozen image models from transformers folders: embeddings and an oracle's verdicts.

The one module that loads transformers models for images.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from genie.errors import GenieError

BATCH = 256


@dataclass(frozen=True)
class ImageModel:
    """A frozen transformers image model with the size and statistics its pixels need."""

    model: torch.nn.Module
    size: tuple[int, int]
    mean: torch.Tensor
    std: torch.Tensor
    device: str


def default_device() -> str:
    """The accelerator that is here, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_backbone(folder: Path, *, device: str | None = None) -> ImageModel:
    """The embedder f of a transformers folder (CLIP: its vision tower), frozen.

    Raises GenieError if the folder or its safetensors weights are missing.
    """
    check_folder(folder, parameter="classifier.backbone")
    model = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    return _image_model(getattr(model, "vision_model", model), folder, device)


def load_untrained(folder: Path, *, device: str | None = None) -> ImageModel:
    """A network of the folder's architecture with fresh weights from torch's generator."""
    check_folder(folder, parameter="classifier.backbone")
    return _image_model(AutoModel.from_config(AutoConfig.from_pretrained(folder)), folder, device)


def load_oracle(folder: Path, *, device: str | None = None) -> ImageModel:
    """A classifier with class names (`id2label`) that judges label consistency."""
    check_folder(folder, parameter="oracle.model")
    model = AutoModelForImageClassification.from_pretrained(
        folder, use_safetensors=True, local_files_only=True
    )
    return _image_model(model, folder, device)


def check_folder(folder: Path, *, parameter: str) -> None:
    """GenieError unless the folder holds a transformers model with safetensors weights."""
    fetch = f"bring one with `genie fetch ID {folder}`"
    if not folder.is_dir():
        raise GenieError(f"{parameter} must be a model folder, got {folder}, not there; {fetch}")
    if not (folder / "config.json").is_file():
        raise GenieError(f"{parameter}: {folder} has no config.json; {fetch}")
    if not any(folder.glob("*.safetensors")):
        raise GenieError(f"{parameter}: {folder} has no *.safetensors weights; {fetch}")


def pixels(images: Sequence[Image.Image], *, model: ImageModel) -> torch.Tensor:
    """(n, 3, H, W) float32, resized and normalised as the model wants."""
    width, height = model.size[1], model.size[0]
    arrays = [
        np.asarray(i.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
        if i.size != (width, height)
        else np.asarray(i.convert("RGB"))
        for i in images
    ]
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    return (batch - model.mean) / model.std


@torch.inference_mode()
def embed(images: Sequence[Image.Image], *, model: ImageModel) -> np.ndarray:
    """(n, d) float32 embeddings, L2-normalised as in the authors' code."""
    rows = [pooled(model.model(_batch(images, i, model))) for i in range(0, len(images), BATCH)]
    if not rows:
        return np.zeros((0, 0), np.float32)
    return torch.nn.functional.normalize(torch.cat(rows), dim=1).float().cpu().numpy()


@torch.inference_mode()
def classify(images: Sequence[Image.Image], *, model: ImageModel) -> np.ndarray:
    """(n, c) probabilities in the order of `class_names(model)`."""
    starts = range(0, len(images), BATCH)
    logits = [model.model(_batch(images, i, model)).logits for i in starts]
    return torch.cat(logits).float().softmax(1).cpu().numpy()


def class_names(model: ImageModel) -> list[str]:
    """The oracle's class names by output index."""
    config: Any = model.model.config
    names = config.id2label
    return [names[i] for i in range(len(names))]


def pooled(output: object) -> torch.Tensor:
    """(B, d) from any transformers vision output: pooled where there is a pool, else the mean."""
    pooler = getattr(output, "pooler_output", None)
    hidden = output.last_hidden_state if pooler is None else pooler  # type: ignore[attr-defined]
    if hidden.ndim == 4:
        return hidden.flatten(2).mean(2)
    return hidden.mean(1) if hidden.ndim == 3 else hidden


def _batch(images: Sequence[Image.Image], start: int, model: ImageModel) -> torch.Tensor:
    return pixels(images[start : start + BATCH], model=model).to(model.device)


def _image_model(model: torch.nn.Module, folder: Path, device: str | None) -> ImageModel:
    device = device or default_device()
    path = folder / "preprocessor_config.json"
    settings: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    size: Any = settings.get("crop_size") or settings.get("size") or 224
    if isinstance(size, dict):
        edge = size.get("shortest_edge", 224)
        size = (size.get("height", edge), size.get("width", edge))
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    def statistics(key: str, default: float) -> torch.Tensor:
        return torch.tensor(settings.get(key) or [default] * 3).view(1, 3, 1, 1)

    return ImageModel(
        model=model.float().eval().to(device),
        size=(height, width),
        mean=statistics("image_mean", 0.5),
        std=statistics("image_std", 0.5),
        device=device,
    )
