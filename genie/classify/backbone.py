"""Frozen image models from transformers folders, for embeddings and for an oracle's verdicts.

All batches have the same shape (short ones are padded), so the vector of an image is bitwise
identical in any batch.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from genie.classify import features
from genie.core.device import default_device
from genie.core.errors import FailedError, MissingFileError, one_line
from genie.core.seeding import fingerprint
from genie.data.images import image_id

BATCH = 64
VECTORS_VERSION = 1
"""Increase it whenever a change in the code changes vectors; this invalidates cached ones."""
MODEL_FILES = (".json", ".safetensors")


@dataclass(frozen=True)
class ImageModel:
    """A frozen transformers image model with its input size and pixel statistics.

    `size` is (height, width). `cache` is the file that stores its vectors. `fingerprint` identifies
    the content of its folder; it is "" without a cache.
    """

    model: torch.nn.Module
    size: tuple[int, int]
    mean: torch.Tensor
    std: torch.Tensor
    device: str
    fingerprint: str
    cache: Path | None


def load_backbone(
    folder: Path, *, device: str | None = None, cache: Path | None = None
) -> ImageModel:
    """Load the frozen embedding network f from a transformers folder (for CLIP, its vision tower).

    `cache` is a file that stores embeddings between calls. Raise MissingFileError if the folder or
    its safetensors weights are missing, and FailedError if transformers cannot load it.
    """
    model = _loaded(AutoModel, folder, argument="embedder")
    return image_model(_vision_tower(model), folder, device, cache)


def load_untrained(folder: Path, *, device: str | None = None) -> ImageModel:
    """Build a network with the folder's architecture and random weights (torch's global generator).

    For CLIP, this is the vision tower.
    """
    check_folder(folder, argument="embedder")
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = AutoModel.from_config(config, trust_remote_code=False)
    return image_model(_vision_tower(model), folder, device, None)


def load_oracle(
    folder: Path, *, device: str | None = None, cache: Path | None = None
) -> ImageModel:
    """Load a classifier with class names (`id2label`) to measure label consistency.

    See `load_backbone` for errors.
    """
    model = _loaded(AutoModelForImageClassification, folder, argument="oracle")
    return image_model(model, folder, device, cache)


def _loaded(kind: Any, folder: Path, *, argument: str) -> Any:
    """Load a model from safetensors, without running code in the folder."""
    check_folder(folder, argument=argument)
    try:
        return kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise FailedError(
            f"must load as a transformers model, but {folder}: {one_line(error)}",
            argument=argument,
            remedy="download it again or choose another model",
        ) from error


def check_folder(folder: Path, *, argument: str) -> None:
    """Raise MissingFileError unless the folder has a transformers model in safetensors format."""
    lacks = "does not exist"
    if folder.is_dir():
        lacks = "has no *.safetensors weights" if (folder / "config.json").is_file() else ""
        if lacks and any(folder.glob("*.safetensors")):
            return
    raise MissingFileError(
        f"must be a model folder, but {folder} {lacks or 'has no config.json'}",
        argument=argument,
        remedy="name another folder, or download one to a new folder with `genie fetch ID FOLDER`"
        if folder.exists()
        else f"download one with `genie fetch ID {folder}`",
    )


def pixels(images: Sequence[Image.Image], *, model: ImageModel) -> torch.Tensor:
    """Return images as (n, 3, H, W) float32, resized and normalised for the model."""
    arrays = [np.asarray(resized(image, model=model)) for image in images]
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    return (batch - model.mean) / model.std


def resized(image: Image.Image, *, model: ImageModel) -> Image.Image:
    """Resize an RGB image to the model's input size, unless it already has this size."""
    height, width = model.size
    rgb = image.convert("RGB")
    if rgb.size == (width, height):
        return rgb
    return rgb.resize((width, height), Image.Resampling.BICUBIC)


def embed(images: Sequence[Image.Image], *, model: ImageModel) -> np.ndarray:
    """Return (n, d) float32 embeddings, L2-normalised as in the authors' code."""

    def unit(batch: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(pooled(model.model(batch)), dim=1)

    return vectors(images, model, unit, kind="embedding")


def classify(images: Sequence[Image.Image], *, model: ImageModel) -> np.ndarray:
    """Return (n, c) probabilities in the order of `class_names(model)`."""

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
    """Return `run`'s output (n, d) in float32, one row per image, from the cache where possible.

    Memory holds the images of one batch. Under `torchrun` or `accelerate launch`, each process
    computes a part, and all of them return the whole result.
    """
    if not images:
        return np.zeros((0, 0), np.float32)
    names = [image_id(image) for image in images]
    place = {name: i for i, name in enumerate(names)}
    source = f"{model.fingerprint} {kind} {model.device} v{VECTORS_VERSION}"

    def compute(own: Sequence[str]) -> dict[str, np.ndarray]:
        known = features.known(model.cache, source, own) if model.cache else {}
        missing = [name for name in own if name not in known]
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            batch = [images[place[name]] for name in part]
            padded = [*batch, *[batch[-1]] * (BATCH - len(batch))]
            rows = run(pixels(padded, model=model).to(model.device)).float().cpu().numpy()
            fresh = dict(zip(part, rows, strict=False))
            if model.cache:
                features.keep(model.cache, source, fresh)
            known |= fresh
        return known

    known = _shared_out(list(place), compute)
    return np.stack([known[name] for name in names])


def _shared_out(
    names: list[str], compute: Callable[[Sequence[str]], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Compute the vectors of `names`, divided among the processes, and return all of them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return compute(names)
    state = PartialState(cpu=not torch.cuda.is_available())
    with state.split_between_processes(names) as own:
        parts = gather_object([compute(own)])
    return {name: vector for part in parts for name, vector in part.items()}


def _vision_tower(model: torch.nn.Module) -> torch.nn.Module:
    """Return the image encoder of a dual encoder; return any other model unchanged."""
    return getattr(model, "vision_model", model)


def class_names(model: ImageModel) -> list[str]:
    """Return the oracle's class names by output index."""
    config: Any = model.model.config
    names = config.id2label
    return [names[i] for i in range(len(names))]


def pooled(output: object) -> torch.Tensor:
    """Reduce any transformers vision output to (B, d).

    The pooler output is used if there is one, else the last hidden state. Both are averaged over
    positions, if they have any.
    """
    pooler = getattr(output, "pooler_output", None)
    hidden = output.last_hidden_state if pooler is None else pooler  # type: ignore[attr-defined]
    if hidden.ndim == 4:
        return hidden.flatten(2).mean(2)
    return hidden.mean(1) if hidden.ndim == 3 else hidden


def _fingerprint(folder: Path) -> str:
    """Return the fingerprint of the files that a model is loaded from."""
    return fingerprint(folder, (p for p in folder.iterdir() if p.suffix in MODEL_FILES))


def image_model(
    model: torch.nn.Module, folder: Path, device: str | None, cache: Path | None
) -> ImageModel:
    """Wrap a loaded model with the input size and statistics in its folder's preprocessor config.

    The defaults are 224 x 224 pixels, and 0.5 for means and standard deviations.
    """
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
