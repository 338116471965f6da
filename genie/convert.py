"""Checkpoints of other people's code → transformers folders with safetensors, once."""

import json
import re
from pathlib import Path
from pickle import UnpicklingError

import torch
from transformers import ResNetConfig, ResNetModel

from genie.errors import GenieError

WIDTHS = (64, 128, 256, 512)
PREFIXES = ("module.", "encoder.", "encoder_q.", "backbone.")
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def convert_resnet(checkpoint: Path, folder: Path, *, size: int = 224) -> ResNetConfig:
    """Write a ResNet state dict with torchvision's names as a transformers `ResNetModel`.

    So are UniSiam's released ResNet-18, 34 and 50, the paper's few-shot backbones: a file with
    `{"model": {"encoder.conv1.weight": ...}}`. Projection heads and the classifier are left out.
    `size` is the pixels per side the network was trained on; statistics are ImageNet's. The file
    is read as tensors only. Raises GenieError if it is no such checkpoint, or `folder` exists.
    """
    if folder.exists():
        raise GenieError(f"{folder} exists already; name a new folder or remove it")
    weights = _encoder(_read(checkpoint), checkpoint)
    config = _config(weights)
    model = ResNetModel(config)
    renamed = {_name(key): tensor for key, tensor in weights.items()}
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    wrong = [*missing, *unexpected]
    if wrong:
        raise GenieError(
            f"{checkpoint} is no plain ResNet-10, 18, 34 or 50: {wrong[0]} has no counterpart"
        )
    model.save_pretrained(folder, safe_serialization=True)
    settings = {"size": {"height": size, "width": size}, **IMAGENET}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return config


def _read(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, wherever training code put it."""
    if not checkpoint.is_file():
        raise GenieError(f"{checkpoint} does not exist; give the checkpoint's file")
    try:
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GenieError(f"{checkpoint} cannot be read as tensors alone: {first}") from error
    for key in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise GenieError(f"{checkpoint} must hold a state dict, got {type(loaded).__name__}")
    return loaded


def _encoder(state: dict[str, torch.Tensor], checkpoint: Path) -> dict[str, torch.Tensor]:
    """The ResNet's own entries without their prefix."""
    found = {}
    for key, tensor in state.items():
        name = key
        while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        if re.match(r"(conv1|bn1|layer[1-4]\.)", name):
            found[name] = tensor
    if "conv1.weight" not in found or "layer4.0.conv1.weight" not in found:
        raise GenieError(
            f"{checkpoint} must hold a ResNet with torchvision's names (conv1.weight, "
            f"layer4.0.conv1.weight), found keys such as {next(iter(state), 'none')}"
        )
    return found


def _config(weights: dict[str, torch.Tensor]) -> ResNetConfig:
    """Depth and block type as the entries show them."""
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
    """transformers' name for one of torchvision's."""
    kinds = {"conv": "convolution", "bn": "normalization"}
    if found := re.fullmatch(r"(conv|bn)1\.(\w+)", key):
        return f"embedder.embedder.{kinds[found[1]]}.{found[2]}"
    stage, block, part, value = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)\.(\w+)", key).groups()  # type: ignore[union-attr]
    place = f"encoder.stages.{int(stage) - 1}.layers.{block}"
    if part.startswith("downsample"):
        return (
            f"{place}.shortcut.{'convolution' if part.endswith('0') else 'normalization'}.{value}"
        )
    return f"{place}.layer.{int(part[-1]) - 1}.{kinds[part[:-1]]}.{value}"
