"""Conversion of checkpoints from other projects to transformers folders with safetensors."""

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

from genie.core.errors import InvalidValueError, MissingFileError, one_line

WIDTHS = (64, 128, 256, 512)
PREFIXES = ("module.", "encoder.", "encoder_q.", "backbone.")
IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def convert_resnet(checkpoint: Path, folder: Path, *, size: int = 224) -> ResNetConfig:
    """Convert a ResNet state dict with torchvision's names to a transformers `ResNetModel`.

    UniSiam's ResNet-18, 34 and 50, which are the paper's few-shot backbones, were released in this
    format, as `{"model": {"encoder.conv1.weight": ...}}`. Projection heads and classifiers are left
    out. `size` is the side length of the training images in pixels. The model is given the pixel
    statistics of ImageNet. Only tensors are loaded, so the file cannot execute code. Raise
    MissingFileError if the file does not exist, and InvalidValueError if it is in another format or
    if `folder` exists.
    """
    if folder.exists():
        raise InvalidValueError(
            "must not exist yet",
            argument="FOLDER",
            value=str(folder),
            remedy="remove it or choose another folder",
        )
    weights = _encoder(_read(checkpoint), checkpoint)
    config = _config(weights)
    model = ResNetModel(config)
    renamed = {_name(key): tensor for key, tensor in weights.items()}
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    wrong = [*missing, *unexpected]
    if wrong:
        raise InvalidValueError(
            f"must be a plain ResNet-10, 18, 34 or 50, but {wrong[0]} has no counterpart in one",
            argument=str(checkpoint),
        )
    model.save_pretrained(folder, safe_serialization=True)
    ViTImageProcessor(size={"height": size, "width": size}, **IMAGENET).save_pretrained(folder)
    return config


def _read(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Load the state dict from a checkpoint, which may nest it under "model" or "state_dict"."""
    if not checkpoint.is_file():
        raise MissingFileError(
            "must be a checkpoint file", argument="CHECKPOINT", value=str(checkpoint)
        )
    try:
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise InvalidValueError(
            f"cannot be loaded as tensors only: {one_line(error)}", argument=str(checkpoint)
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise InvalidValueError(
            "must contain a state dict", argument=str(checkpoint), value=type(loaded).__name__
        )
    return loaded


def _encoder(state: dict[str, torch.Tensor], checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the entries of the ResNet itself, without their prefixes."""
    weights = {}
    for key, tensor in state.items():
        name = key
        while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        if re.match(r"(conv1|bn1|layer[1-4]\.)", name):
            weights[name] = tensor
    if "conv1.weight" not in weights or "layer4.0.conv1.weight" not in weights:
        raise InvalidValueError(
            "must contain a ResNet with torchvision's names (conv1.weight, layer4.0.conv1.weight), "
            f"found keys such as {next(iter(state), 'none')}",
            argument=str(checkpoint),
        )
    return weights


def _config(weights: dict[str, torch.Tensor]) -> ResNetConfig:
    """Infer the depths and the block type from the weights."""
    depths = [
        len({key.split(".")[1] for key in weights if key.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    ]
    bottleneck = "layer1.0.conv3.weight" in weights
    return ResNetConfig(
        embedding_size=64,
        hidden_sizes=[width * (4 if bottleneck else 1) for width in WIDTHS],
        depths=depths,
        layer_type="bottleneck" if bottleneck else "basic",
    )


def _name(key: str) -> str:
    """Return the transformers name of a torchvision entry."""
    kinds = {"conv": "convolution", "bn": "normalization"}
    if stem := re.fullmatch(r"(conv|bn)1\.(\w+)", key):
        return f"embedder.embedder.{kinds[stem[1]]}.{stem[2]}"
    stage, block, part, value = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)\.(\w+)", key).groups()  # type: ignore[union-attr]
    place = f"encoder.stages.{int(stage) - 1}.layers.{block}"
    if part.startswith("downsample"):
        return (
            f"{place}.shortcut.{'convolution' if part.endswith('0') else 'normalization'}.{value}"
        )
    return f"{place}.layer.{int(part[-1]) - 1}.{kinds[part[:-1]]}.{value}"
