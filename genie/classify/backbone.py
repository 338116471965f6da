"""Frozen image models in transformers folders, for embeddings and for the oracle's verdicts.

All batches have the same shape (short ones are padded), so the vector of an image is bitwise
identical in any batch.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
)

from genie.classify import features
from genie.classify.model_checks import model_fingerprint
from genie.core.device import default_device
from genie.core.errors import FailedError, MissingFileError, one_line
from genie.core.progress import Progress, silent
from genie.data.images import image_id

BATCH = 64
_NOT_GEOMETRY = ("do_rescale", "do_normalize", "do_flip_channel_order")  # of image processors
VECTORS_VERSION = 2
"""Increase this number when a code change alters vectors; this invalidates cached vectors."""


@dataclass(frozen=True)
class ImageModel:
    """A frozen transformers image model with its preprocessing.

    `size` is the (height, width) of the input. `resize` converts an RGB image of any size to this
    size. Pixels in [0, 255] are multiplied by `scale`, then normalised with `mean` and `std`; with
    `bgr`, the channels are in reverse order. `cache` is the file that stores the model's vectors.
    `fingerprint` identifies the content of the model's folder; it is "" without a cache.
    """

    model: torch.nn.Module
    size: tuple[int, int]
    resize: Callable[[Image.Image], Image.Image]
    mean: torch.Tensor
    std: torch.Tensor
    device: str
    fingerprint: str
    cache: Path | None
    scale: float = 1 / 255
    bgr: bool = False


def load_backbone(
    folder: Path, *, device: str | None = None, cache: Path | None = None
) -> ImageModel:
    """Load the frozen embedding network f from a transformers folder (for CLIP, its vision tower).

    `cache` is a file that keeps embeddings between calls. Raise MissingFileError if the folder or
    its safetensors weights are missing, and FailedError if transformers cannot load it.
    """
    model = _vision_tower(_loaded(AutoModel, folder, argument="embedder"))
    if getattr(model, "main_input_name", "pixel_values") != "pixel_values":
        raise _cannot_load(folder, "it takes no images", "embedder")
    wrapped = image_model(model, folder, device, cache)
    sample_output(wrapped, folder, argument="embedder")
    return wrapped


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
    """Load a classifier with class names (`id2label`), which measures label consistency.

    See `load_backbone` for the errors.
    """
    model = _loaded(AutoModelForImageClassification, folder, argument="oracle")
    wrapped = image_model(model, folder, device, cache)
    sample_output(wrapped, folder, argument="oracle")
    return wrapped


def _loaded(kind: Any, folder: Path, *, argument: str) -> Any:
    """Load a model from safetensors, without running code in the folder.

    Weights that are missing in the checkpoint would be random, and different in every process. If
    the pooler is missing, the model is used without it (see `pooled`). Any other missing weight
    raises FailedError.
    """
    check_folder(folder, argument=argument)
    try:
        model, report = kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise _cannot_load(folder, one_line(error), argument) from error
    lost = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    tower = _vision_tower(model)
    if tower is not model:  # the text encoder is not used
        lost = [key for key in lost if key.startswith("vision_model.")]
    poolers = [key for key in lost if "pooler." in key]
    if poolers and len(poolers) == len(lost) and getattr(tower, "pooler", None) is not None:
        tower.pooler = None  # type: ignore[assignment]
        return model
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        names = ", ".join(lost[:3]) + more
        raise _cannot_load(folder, f"its checkpoint lacks {names}, which would be random", argument)
    return model


def _cannot_load(folder: Path, why: str, argument: str) -> FailedError:
    remedy = "download it again or choose another model"
    if "timm" in why.lower():
        remedy = "run `pip install timm`, or choose a model of transformers' own"
    return FailedError(
        f"must load as a transformers model, but {folder}: {why}",
        argument=argument,
        remedy=remedy,
    )


@torch.inference_mode()
def sample_output(model: ImageModel, folder: Path, *, argument: str) -> torch.Tensor:
    """Return the embedding or the logits (1, d) of an image of noise.

    Raise FailedError if the model fails on images of its own input size, or if its output is not
    finite or is random, like that of a masked autoencoder.
    """
    batch = pixels([Image.fromarray(_noise(model.size))], model=model).to(model.device)
    try:
        first, second = (_output(model.model(batch)) for _ in range(2))
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise _cannot_load(
            folder, f"it fails on {_by(model.size)} pixels: {one_line(error)}", argument
        ) from error
    if not first.isfinite().all():
        raise _cannot_load(folder, "its output is not finite", argument)
    if not torch.equal(first, second):
        raise _cannot_load(folder, "its output for one image differs from call to call", argument)
    return first


def _output(output: Any) -> torch.Tensor:
    return output.logits if getattr(output, "logits", None) is not None else pooled(output)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def check_folder(folder: Path, *, argument: str) -> None:
    """Raise MissingFileError unless the folder contains a safetensors transformers model."""
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
    """Return images as float32 (n, 3, H, W), resized and normalised for the model."""
    arrays = [np.asarray(resized(image, model=model)) for image in images]
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float()
    scaled = batch / 255 if model.scale == 1 / 255 else batch * model.scale
    return ((scaled.flip(1) if model.bgr else scaled) - model.mean) / model.std


def resized(image: Image.Image, *, model: ImageModel) -> Image.Image:
    """Resize and crop an image to the model's input size, as its image processor does."""
    return model.resize(image.convert("RGB"))


def embed(
    images: Sequence[Image.Image],
    *,
    model: ImageModel,
    progress: Progress = silent,
    label: str = "embed images",
) -> np.ndarray:
    """Return (n, d) float32 embeddings, L2-normalised as in the authors' code."""

    def unit(batch: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(pooled(model.model(batch)), dim=1)

    return vectors(images, model, unit, kind="embedding", progress=progress, label=label)


def classify(
    images: Sequence[Image.Image],
    *,
    model: ImageModel,
    progress: Progress = silent,
    label: str = "classify images",
) -> np.ndarray:
    """Return (n, c) probabilities in the order of `class_names(model)`."""

    def shares(batch: torch.Tensor) -> torch.Tensor:
        return model.model(batch).logits.float().softmax(1)

    return vectors(images, model, shares, kind="probabilities", progress=progress, label=label)


@torch.inference_mode()
def vectors(
    images: Sequence[Image.Image],
    model: ImageModel,
    run: Callable[[torch.Tensor], torch.Tensor],
    *,
    kind: str,
    progress: Progress = silent,
    label: str = "embed images",
) -> np.ndarray:
    """Return the output (n, d) of `run` in float32, one row per image, from the cache if possible.

    Each image is loaded once, and at most two batches of images are in memory at a time. Under
    `torchrun` or `accelerate launch`, each process computes a part of the vectors, and every
    process returns the whole result.
    """
    if not images:
        return np.zeros((0, 0), np.float32)
    source = f"{model.fingerprint} {kind} {model.device} v{VECTORS_VERSION}"

    def run_batch(batch: Mapping[str, Image.Image]) -> dict[str, np.ndarray]:
        some = list(batch.values())
        padded = [*some, *[some[-1]] * (BATCH - len(some))]
        rows = run(pixels(padded, model=model).to(model.device)).float().cpu().numpy()
        fresh = dict(zip(batch, rows, strict=False))
        if model.cache:
            features.keep(model.cache, source, fresh)
        return fresh

    def compute(places: Sequence[int]) -> list[np.ndarray]:
        names: list[str] = []
        known: dict[str, np.ndarray] = {}
        waiting: dict[str, Image.Image] = {}
        starts = range(0, len(places), BATCH)

        def size(start: int) -> int:
            return min(BATCH, len(places) - start)

        for start in progress(starts, label, total=len(places), unit="image", weight=size):
            part = [images[i] for i in places[start : start + BATCH]]
            own = [image_id(image) for image in part]
            names += own
            if model.cache:
                known |= features.known(model.cache, source, [n for n in own if n not in known])
            missing = zip(own, part, strict=True)
            waiting |= {name: image for name, image in missing if name not in known}
            if len(waiting) >= BATCH:
                full = dict(islice(waiting.items(), BATCH))
                known |= run_batch(full)
                waiting = {n: image for n, image in waiting.items() if n not in full}
        if waiting:
            known |= run_batch(waiting)
        return [known[name] for name in names]

    return np.stack(_shared_out(range(len(images)), compute))


def _shared_out(
    places: Sequence[int], compute: Callable[[Sequence[int]], list[np.ndarray]]
) -> list[np.ndarray]:
    """Compute the vectors of `places`, divided among the processes, and return all vectors."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return compute(places)
    state = PartialState(cpu=not torch.cuda.is_available())
    with state.split_between_processes(list(places)) as own:
        parts = gather_object([compute(own)])
    return [vector for part in parts for vector in part]


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

    The pooler output is used if there is one, and otherwise the last hidden state. If the result
    has positions, it is averaged over them.
    """
    pooler = getattr(output, "pooler_output", None)
    hidden = output.last_hidden_state if pooler is None else pooler  # type: ignore[attr-defined]
    if hidden.ndim == 4:
        return hidden.flatten(2).mean(2)
    return hidden.mean(1) if hidden.ndim == 3 else hidden


def image_model(
    model: torch.nn.Module, folder: Path, device: str | None, cache: Path | None
) -> ImageModel:
    """Wrap a loaded model with the preprocessing that its image processor defines.

    If there is no processor, or the processor does not resize, images are resized (bicubic) to the
    size in the model's config, or to 224 x 224 pixels if the config has none. Without a processor,
    means and standard deviations are 0.5. Raise FailedError if this preprocessing does not
    reproduce the processor's pixels.
    """
    device = device or default_device()
    processor = _processor(folder)
    settings = processor.to_dict() if processor else {}
    rescales, normalises = (
        bool(settings.get(key)) if processor else True for key in ("do_rescale", "do_normalize")
    )

    def statistics(key: str, neutral: float) -> torch.Tensor:
        given = settings.get(key) if normalises else neutral
        values = torch.tensor(0.5 if given is None else given, dtype=torch.float32)
        return values.expand(3).reshape(1, 3, 1, 1).clone()

    size, resize = _resizing(processor, settings, getattr(model, "config", None), folder)
    wrapped = ImageModel(
        model=model.float().eval().to(device),
        size=size,
        resize=resize,
        scale=float(settings.get("rescale_factor", 1 / 255)) if rescales else 1.0,
        mean=statistics("image_mean", 0.0),
        std=statistics("image_std", 1.0),
        bgr=bool(settings.get("do_flip_channel_order", False)),
        device=device,
        fingerprint=model_fingerprint(folder) if cache else "",
        cache=cache,
    )
    if processor:
        _require_same_pixels(wrapped, processor, folder)
    return wrapped


def _processor(folder: Path) -> Any:
    """Return the image processor in a folder, or None if the folder has no processor file."""
    names = ("preprocessor_config.json", "processor_config.json")
    if not any((folder / name).is_file() for name in names):
        return None
    try:
        return AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise FailedError(
            f"its image processor in {folder} does not load: {one_line(error)}",
            remedy="download the model again or choose another one",
        ) from error


def _resizing(
    processor: Any, settings: dict[str, Any], config: Any, folder: Path
) -> tuple[tuple[int, int], Callable[[Image.Image], Image.Image]]:
    """Return a model's input size (height, width), and a function that resizes and crops to it."""
    if settings.get("do_resize") or settings.get("do_center_crop"):
        kept = {key: False for key in _NOT_GEOMETRY if key in settings}
        small, large = (_processed(_noise((n, n)), processor, folder).shape for n in (320, 640))
        if len(small) == 4 and small == large:
            size = (small[2], small[3])
            as_it_is = _processed(_noise(size), processor, folder, **kept)
            fits = np.array_equal(as_it_is[0].numpy().transpose(1, 2, 0), _noise(size))

            def by_processor(image: Image.Image) -> Image.Image:
                if fits and image.size == size[::-1]:
                    return image
                array = processor(image, return_tensors="np", **kept)["pixel_values"][0]
                return Image.fromarray(array.transpose(1, 2, 0).astype(np.uint8))

            return size, by_processor
        raise _unsupported(folder, "its pixels are not of one size")
    edge: Any = getattr(config, "image_size", None) or 224
    height, width = (edge, edge) if isinstance(edge, int) else edge

    def bicubic(image: Image.Image) -> Image.Image:
        if image.size == (width, height):
            return image
        return image.resize((width, height), Image.Resampling.BICUBIC)

    return (int(height), int(width)), bicubic


def _noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def _processed(array: np.ndarray, processor: Any, folder: Path, **options: Any) -> torch.Tensor:
    """Return the pixels (1, 3, H, W) that the processor makes from an RGB array."""
    try:
        found = processor(Image.fromarray(array), return_tensors="pt", **options)["pixel_values"]
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise _unsupported(folder, one_line(error)) from error
    return torch.as_tensor(found)


def _unsupported(folder: Path, why: str) -> FailedError:
    return FailedError(
        f"the image processor of {folder} is not supported: {why}", remedy="choose another model"
    )


def _require_same_pixels(model: ImageModel, processor: Any, folder: Path) -> None:
    """Raise FailedError unless `pixels` matches the processor's pixels for images of two sizes."""
    height, width = model.size
    for size in (model.size, (2 * height, 2 * width)):
        array = _noise(size)
        theirs = _processed(array, processor, folder)
        ours = pixels([Image.fromarray(array)], model=model)
        if theirs.shape != ours.shape or not torch.allclose(ours, theirs.float(), atol=1e-3):
            why = "its pixels differ from those of a resized, rescaled and normalised image"
            raise _unsupported(folder, why)
