"""Frozen image models from transformers folders: embeddings and an oracle's verdicts.

The one module that loads transformers models for images. Images go through a model in batches of
one shape, so that a vector is bitwise the same whatever images are beside it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from genie import features
from genie.errors import GenieError
from genie.records import image_id

BATCH = 64


@dataclass(frozen=True)
class ImageModel:
    """A frozen transformers image model with the size and statistics its pixels need.

    `cache` is the file that keeps its vectors, `fingerprint` the content of its folder.
    """

    model: torch.nn.Module
    size: tuple[int, int]
    mean: torch.Tensor
    std: torch.Tensor
    device: str
    fingerprint: str
    cache: Path | None


def default_device() -> str:
    """The accelerator that is here, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_backbone(
    folder: Path, *, device: str | None = None, cache: Path | None = None
) -> ImageModel:
    """The embedder f of a transformers folder (CLIP: its vision tower), frozen.

    `cache`: a file that keeps embeddings from one call to the next. Raises GenieError if the
    folder or its safetensors weights are missing.
    """
    check_folder(folder, parameter="classifier.backbone")
    model = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    return image_model(getattr(model, "vision_model", model), folder, device, cache)


def load_untrained(folder: Path, *, device: str | None = None) -> ImageModel:
    """A network of the folder's architecture with fresh weights from torch's generator."""
    check_folder(folder, parameter="classifier.backbone")
    return image_model(
        AutoModel.from_config(AutoConfig.from_pretrained(folder)), folder, device, None
    )


def load_oracle(
    folder: Path, *, device: str | None = None, cache: Path | None = None
) -> ImageModel:
    """A classifier with class names (`id2label`) that judges label consistency."""
    check_folder(folder, parameter="oracle.model")
    model = AutoModelForImageClassification.from_pretrained(
        folder, use_safetensors=True, local_files_only=True
    )
    return image_model(model, folder, device, cache)


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
    arrays = [np.asarray(image) for image in resized(images, model=model)]
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    return (batch - model.mean) / model.std


def resized(images: Sequence[Image.Image], *, model: ImageModel) -> list[Image.Image]:
    """RGB images of the size that the model takes; one of that size already stays as it is."""
    height, width = model.size
    return [
        rgb
        if rgb.size == (width, height)
        else rgb.resize((width, height), Image.Resampling.BICUBIC)
        for rgb in (image.convert("RGB") for image in images)
    ]


def embed(images: Sequence[Image.Image], *, model: ImageModel) -> np.ndarray:
    """(n, d) float32 embeddings, L2-normalised as in the authors' code."""

    def unit(batch: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(pooled(model.model(batch)), dim=1)

    return vectors(images, model, unit, kind="embedding")


def classify(images: Sequence[Image.Image], *, model: ImageModel) -> np.ndarray:
    """(n, c) probabilities in the order of `class_names(model)`."""

    def shares(batch: torch.Tensor) -> torch.Tensor:
        return model.model(batch).logits.float().softmax(1)

    return vectors(images, model, shares, kind="probabilities")


@torch.inference_mode()
def vectors(
    images: Sequence[Image.Image],
    model: ImageModel,
    run: Callable[[torch.Tensor], torch.Tensor],
    *,
    kind: str,
) -> np.ndarray:
    """(n, d) float32: what `run` makes of each image, from the cache where it is known."""
    if not images:
        return np.zeros((0, 0), np.float32)
    names = [image_id(image) for image in images]
    known = features.known(model.cache, f"{model.fingerprint} {kind}", names) if model.cache else {}
    missing = {n: i for n, i in zip(names, images, strict=True) if n not in known}
    fresh: dict[str, np.ndarray] = {}
    for start in range(0, len(missing), BATCH):
        part = dict(list(missing.items())[start : start + BATCH])
        last = next(reversed(part.values()))
        padded = [*part.values(), *[last] * (BATCH - len(part))]
        rows = run(pixels(padded, model=model).to(model.device)).float().cpu().numpy()
        fresh |= dict(zip(part, rows, strict=False))
    if model.cache and fresh:
        features.keep(model.cache, f"{model.fingerprint} {kind}", fresh)
    known |= fresh
    return np.stack([known[name] for name in names])


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


def _fingerprint(folder: Path) -> str:
    """SHA-256 (hex) over names and bytes of the folder's files."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors")):
        with path.open("rb") as file:
            total.update(
                f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return total.hexdigest()


def image_model(
    model: torch.nn.Module, folder: Path, device: str | None, cache: Path | None
) -> ImageModel:
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
        fingerprint=_fingerprint(folder) if cache else "",
        cache=cache,
    )
