"""Text-to-image diffusion models, loaded as image-to-image pipelines from a diffusers folder.

The safety checker is not loaded, because it would replace training images with black squares.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoPipelineForImage2Image, DPMSolverMultistepScheduler
from PIL import Image

from genie.core.device import default_device
from genie.core.errors import FailedError, InvalidValueError, MissingFileError, one_line
from genie.core.seeding import fingerprint
from genie.data.images import square
from genie.plan.model_card import MODEL_CARD, read_json, read_model_card
from genie.render.denoiser import Denoiser, load_denoiser, uses_openvino
from genie.render.model_info import GENERIC, STABLE_DIFFUSION, ModelInfo, RenderSettings

_NOT_LOADED = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass(frozen=True)
class Generator:
    """A loaded model.

    `dtype` is the precision in which the denoiser computes. Its weights may be stored in a higher
    precision (`pipeline.dtype`). `denoiser` is None for models outside the Stable Diffusion family.
    """

    pipeline: Any
    info: ModelInfo
    dtype: torch.dtype
    denoiser: Denoiser | None


_DEFAULTS = RenderSettings()


def load_generator(
    folder: Path, settings: RenderSettings = _DEFAULTS, *, device: str | None = None
) -> Generator:
    """Load any image-to-image pipeline from a local diffusers folder with safetensors weights.

    The size, and steps and guidance scale if the settings do not give them, are read from
    `genie.json` next to `model_index.json`. The defaults are the pipeline's native size, 50 steps
    and a guidance scale of 7.5, or the usual steps and scale for a model distilled to few steps. If
    `dtype` is None, a CPU uses float32. A GPU uses float16 for Stable Diffusion, which was released
    in float16, and bfloat16 for other models. If `batch_size` is not a number, the device's default
    is used. Raise MissingFileError or InvalidValueError if the folder is not a diffusers model, or
    if float16 is requested on a CPU.
    """
    index = _read_index(folder)
    device = device or default_device()
    sd = index["_class_name"] in ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
    dtype = getattr(torch, settings.dtype) if settings.dtype else _default_dtype(device, sd)
    if device == "cpu" and dtype == torch.float16:
        raise InvalidValueError(
            "float16 needs a GPU, but there is none",
            argument="dtype",
            remedy="use bfloat16 or float32",
        )
    converted = sd and uses_openvino(device, settings.compile)
    pipeline = _load_pipeline(folder, index, torch.float32 if converted else dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    sd = sd and _distilled(pipeline) is None and _takes_latents_alone(pipeline)
    denoiser = _prepared_denoiser(pipeline, device, settings.compile, dtype) if sd else None
    steps, guidance_scale, size = _suited(folder, pipeline, settings)
    info = ModelInfo(
        name=folder.name,
        fingerprint=_fingerprint(folder, index),
        family=STABLE_DIFFUSION if sd else GENERIC,
        size=size,
        steps=steps,
        guidance_scale=guidance_scale,
        batch_size=_batch_size(settings, size // pipeline.vae_scale_factor, device),
        precision=_precision(pipeline, dtype),
        scheduler=type(pipeline.scheduler).__name__,
        device=device,
        heeds_negative=_takes_negative(pipeline) and guidance_scale > 1,
    )
    return Generator(pipeline, info, dtype, denoiser)


def _takes_latents_alone(pipeline: Any) -> bool:
    """Return whether the denoiser takes only the VAE's latents, without a mask or an image."""
    return bool(pipeline.unet.config.in_channels == pipeline.vae.config.latent_channels)


def _takes_negative(pipeline: Any) -> bool:
    return "negative_prompt" in inspect.signature(pipeline.__call__).parameters


def _prepared_denoiser(
    pipeline: Any, device: str, compile: bool | None, dtype: torch.dtype
) -> Denoiser:
    """Prepare a pipeline of the Stable Diffusion family and return its denoiser."""
    pipeline.scheduler = dpm_solver(pipeline.scheduler.config)
    pipeline.vae.to(memory_format=torch.channels_last)
    return load_denoiser(pipeline.unet, device=device, compile=compile, dtype=dtype)


def _suited(folder: Path, pipeline: Any, settings: RenderSettings) -> tuple[int, float, int]:
    """Return the steps, guidance scale and size from the settings, the card or the defaults."""
    card = read_model_card(folder)
    steps, guidance_scale = _distilled(pipeline) or (50, 7.5)
    scales = (settings.guidance_scale, card.get("guidance_scale"), guidance_scale)
    return (
        int(settings.steps or card.get("steps") or steps),
        float(next(scale for scale in scales if scale is not None)),  # 0 is a valid scale
        int(card.get("size") or _native_size(pipeline)),
    )


def _batch_size(settings: RenderSettings, side: int, device: str) -> int:
    """Return the number of images per denoiser call for latents of side x side.

    On a CPU, the default is 32 for latents up to 8x8, 16 up to 16x16, and 2 for larger latents, to
    limit memory. With a denoiser of 4 M parameters on two cores, a batch size of 32 is a tenth
    faster than 16. A batch size of 64 is little faster than 32, and small jobs do not fill it. On a
    GPU, the default is 256 up to 16x16, 32 up to 64x64, and 8 for larger latents. The GPU values
    have not been measured; `fastest_batch_size` measures which size is fastest.
    """
    if isinstance(settings.batch_size, int):
        return settings.batch_size
    if device != "cuda":
        return 32 if side <= 8 else 16 if side <= 16 else 2
    return 256 if side <= 16 else 32 if side <= 64 else 8


def _precision(pipeline: Any, dtype: torch.dtype) -> str:
    """Return the precision of the denoiser, and the precision of its weights if it differs.

    In bfloat16, OpenVINO computes from float32 weights, and PyTorch from bfloat16 weights. Their
    pixel values differ by up to 16 (of 255).
    """
    stored = pipeline.dtype
    return str(dtype) if stored == dtype else f"{dtype} from {stored}"


@torch.inference_mode()
def encode_images(images: Sequence[Image.Image], generator: Generator) -> torch.Tensor:
    """Encode images for a model of the Stable Diffusion family.

    Return the scaled modes of the VAE's posterior as float32 (n, 4, h, w) on the CPU.
    """
    pixels = generator.pipeline.image_processor.preprocess(
        [square(image, generator.info.size) for image in images]
    )
    pixels = pixels.to(generator.info.device, generator.pipeline.dtype)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    vae = generator.pipeline.vae
    return (vae.config.scaling_factor * vae.encode(pixels).latent_dist.mode()).float().cpu()


_SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
)


def dpm_solver(config: Mapping[str, Any]) -> Any:
    """Return the paper's solver for a model's noise schedule, with evenly spaced timesteps.

    Only the noise schedule and the prediction type are taken from the model's configuration. Other
    settings, such as Karras sigmas or a stochastic solver, would change the meaning of r.
    """
    defined = {name: config[name] for name in _SCHEDULE if config.get(name) is not None}
    return DPMSolverMultistepScheduler(**defined, timestep_spacing="linspace")


def _read_index(folder: Path) -> dict[str, Any]:
    remedy = f"run `genie fetch ID {folder}` to download a model"
    if not folder.is_dir():
        raise MissingFileError(
            f"must be a folder, but {folder} does not exist", argument="model", remedy=remedy
        )
    if not (folder / "model_index.json").is_file():
        raise MissingFileError(
            f"must be a diffusers model, but {folder} has no model_index.json",
            argument="model",
            remedy=remedy,
        )
    index = read_json(folder / "model_index.json")
    if not any(folder.glob("*/*.safetensors")):
        raise MissingFileError(
            f"must hold its weights as .safetensors, found none in {folder}",
            argument="model",
            remedy=f"{remedy} that has them",
        )
    if "_class_name" not in index:
        raise InvalidValueError(
            f"must name its `_class_name` in {folder}/model_index.json",
            argument="model",
            remedy=remedy,
        )
    return index


def _load_pipeline(folder: Path, index: dict[str, Any], dtype: torch.dtype) -> Any:
    options: dict[str, Any] = {
        "dtype": dtype,
        "use_safetensors": True,
        "local_files_only": True,
        "variant": _variant(folder),
    }
    left_out = [name for name, part in index.items() if name in _NOT_LOADED or part == [None, None]]
    options |= dict.fromkeys(left_out)
    if "requires_safety_checker" in index:
        options["requires_safety_checker"] = False
    try:
        return AutoPipelineForImage2Image.from_pretrained(folder, **options)
    except (OSError, ValueError, TypeError) as error:
        raise FailedError(
            f"must load as an image-to-image pipeline of diffusers, but {folder}: "
            f"{one_line(error)}",
            argument="model",
            remedy="download it again or choose another model",
        ) from error


def _variant(folder: Path) -> str | None:
    """Return "fp16" if the denoiser's weights exist only in that variant."""
    names = [
        p.name for part in ("unet", "transformer") for p in folder.glob(f"{part}/*.safetensors")
    ]
    return "fp16" if names and all(".fp16." in name for name in names) else None


def _default_dtype(device: str, stable_diffusion: bool) -> torch.dtype:
    if device != "cuda":  # half precision has produced black images on Macs
        return torch.float32
    bfloat16 = torch.cuda.is_bf16_supported() and not stable_diffusion
    return torch.bfloat16 if bfloat16 else torch.float16


def _distilled(pipeline: Any) -> tuple[int, float] | None:
    """Return steps and guidance scale of a model distilled to few steps, or None for other models.

    Distilled models are identified by their scheduler. LCM and TCD models take 8 steps. They use
    guidance only if the denoiser takes the guidance scale as an input, because otherwise they were
    distilled from guided predictions. Turbo, Lightning and similar models use an Euler scheduler
    with trailing timesteps and take 4 steps without guidance. Models with zero terminal SNR also
    use trailing timesteps, but take many steps.
    """
    scheduler = pipeline.scheduler
    name, config = type(scheduler).__name__, scheduler.config
    if name in ("LCMScheduler", "TCDScheduler"):
        denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        guided = denoiser is not None and denoiser.config.get("time_cond_proj_dim") is not None
        return 8, 8.0 if guided else 1.0
    trailing = config.get("timestep_spacing") == "trailing"
    if name.startswith("Euler") and trailing and not config.get("rescale_betas_zero_snr"):
        return 4, 0.0
    return None


def _native_size(pipeline: Any) -> int:
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    side = getattr(denoiser.config, "sample_size", None) if denoiser is not None else None
    return int(side * pipeline.vae_scale_factor) if side else 512


def model_files(folder: Path) -> list[Path]:
    """Return all files of a model that are loaded.

    Raise MissingFileError if the folder is not a diffusers model with safetensors weights.
    """
    card = folder / MODEL_CARD
    found = [card] if card.is_file() else []
    return [*found, *_weights_and_settings(folder, _read_index(folder))]


def _fingerprint(folder: Path, index: dict[str, Any]) -> str:
    """Compute the fingerprint of all files that determine pixels."""
    return fingerprint(folder, _weights_and_settings(folder, index))


def _weights_and_settings(folder: Path, index: dict[str, Any]) -> list[Path]:
    parts = [name for name in index if not name.startswith("_") and name not in _NOT_LOADED]
    files = [p for part in parts for p in (folder / part).rglob("*") if p.is_file()]
    return [folder / "model_index.json", *files]
