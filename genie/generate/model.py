"""Text-to-image diffusion models, loaded as image-to-image pipelines from a diffusers folder.

The safety checker is not loaded, because it would replace training images by black squares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoPipelineForImage2Image, DPMSolverMultistepScheduler
from PIL import Image

from genie.data.images import square
from genie.device import default_device
from genie.errors import GenieError, one_line
from genie.generate.denoiser import Denoiser, load_denoiser, uses_openvino
from genie.generate.known import read_json, read_settings
from genie.keyed import fingerprint

_NOT_LOADED = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass(frozen=True)
class Generator:
    """A loaded model, with its default guidance scale and number of denoising steps.

    `name` is the name of its folder, and `fingerprint` identifies the files in it. `size` is the
    side length of its square images in pixels. `dtype` is the precision in which the denoiser
    computes. Weights may have a higher one (`pipeline.dtype`). `denoiser` is None on the plain
    path.
    """

    pipeline: Any
    name: str
    fingerprint: str
    guidance_scale: float
    steps: int
    size: int
    device: str
    dtype: torch.dtype
    denoiser: Denoiser | None

    @property
    def fast(self) -> bool:
        """Whether the model takes the fast path, as the Stable Diffusion family does."""
        return self.denoiser is not None

    @property
    def precision(self) -> str:
        """What the denoiser computes in, and from which weights if these are stored differently.

        OpenVINO computes in bfloat16 from float32 weights, PyTorch from bfloat16 weights. Their
        images differ by up to 16 of 255.
        """
        stored = self.pipeline.dtype
        return str(self.dtype) if stored == self.dtype else f"{self.dtype} from {stored}"

    @property
    def scheduler(self) -> str:
        """Class name of the pipeline's scheduler."""
        return type(self.pipeline.scheduler).__name__


def load_generator(
    folder: Path,
    *,
    device: str | None = None,
    compile: bool | None = None,
    dtype: torch.dtype | None = None,
) -> Generator:
    """Load any image-to-image pipeline from a local diffusers folder with safetensors weights.

    `genie.json` next to `model_index.json` may set `guidance_scale`, `steps` and `size`. The
    defaults are 7.5 and 50, or the usual values of a model distilled to few steps, and the
    pipeline's native size. `compile` is passed to `load_denoiser`. `dtype` None selects float32 on
    a CPU. On a GPU it selects float16 for Stable Diffusion, which was released in float16, and
    bfloat16 for other models. Raise GenieError if the folder is not a diffusers model, or if
    float16 is requested on a CPU.
    """
    index = _read_index(folder)
    device = device or default_device()
    fast = index["_class_name"] in ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
    dtype = dtype or _default_dtype(device, fast)
    if device == "cpu" and dtype == torch.float16:
        raise GenieError(
            "generator.dtype float16 needs a GPU, but there is none; use bfloat16 or float32"
        )
    converted = fast and uses_openvino(device, compile)
    pipeline = _load_pipeline(folder, index, torch.float32 if converted else dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    distilled = _distilled(pipeline)
    fast = fast and distilled is None and _takes_latents_alone(pipeline)
    steps, guidance_scale, size = _suited(folder, pipeline, distilled or (50, 7.5))
    return Generator(
        pipeline=pipeline,
        name=folder.name,
        fingerprint=_fingerprint(folder, index),
        guidance_scale=guidance_scale,
        steps=steps,
        size=size,
        device=device,
        dtype=dtype,
        denoiser=_fast_denoiser(pipeline, device, compile, dtype) if fast else None,
    )


def _takes_latents_alone(pipeline: Any) -> bool:
    """Return whether the denoiser's input is the VAE's latents, without a mask or an image."""
    return bool(pipeline.unet.config.in_channels == pipeline.vae.config.latent_channels)


def _fast_denoiser(
    pipeline: Any, device: str, compile: bool | None, dtype: torch.dtype
) -> Denoiser:
    """Prepare a pipeline for the fast path and return its denoiser."""
    pipeline.scheduler = dpm_solver(pipeline.scheduler.config)
    pipeline.vae.to(memory_format=torch.channels_last)
    return load_denoiser(pipeline.unet, device=device, compile=compile, dtype=dtype)


def _suited(folder: Path, pipeline: Any, usual: tuple[int, float]) -> tuple[int, float, int]:
    """Return steps, guidance scale and size from `genie.json`, or the usual and native values."""
    settings = read_settings(folder)
    steps, guidance_scale = usual
    given = settings.get("guidance_scale")  # 0 is a valid scale, null means unset
    return (
        int(settings.get("steps") or steps),
        float(guidance_scale if given is None else given),
        int(settings.get("size") or _native_size(pipeline)),
    )


@torch.inference_mode()
def encode_images(images: Sequence[Image.Image], generator: Generator) -> torch.Tensor:
    """Encode images for the fast path.

    Return the scaled modes of the VAE's posterior, float32 (n, 4, h, w) on the CPU.
    """
    pixels = generator.pipeline.image_processor.preprocess(
        [square(image, generator.size) for image in images]
    )
    pixels = pixels.to(generator.device, generator.pipeline.dtype)
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

    Only what defines the noise schedule and the prediction is taken from the model's configuration.
    The rest, such as Karras sigmas or a stochastic solver, would change what r means.
    """
    defined = {name: config[name] for name in _SCHEDULE if config.get(name) is not None}
    return DPMSolverMultistepScheduler(**defined, timestep_spacing="linspace")


def _read_index(folder: Path) -> dict[str, Any]:
    remedy = f"run `genie fetch ID {folder}` to download a model"
    if not folder.is_dir():
        raise GenieError(f"generator.model must be a folder, but {folder} does not exist; {remedy}")
    if not (folder / "model_index.json").is_file():
        raise GenieError(
            f"{folder} must be a diffusers model, but has no model_index.json; {remedy}"
        )
    index = read_json(folder / "model_index.json")
    if not any(folder.glob("*/*.safetensors")):
        raise GenieError(
            f"{folder} must hold its weights as .safetensors, found none; {remedy} that has them"
        )
    if "_class_name" not in index:
        raise GenieError(f"{folder}/model_index.json must name its `_class_name`; {remedy}")
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
        raise GenieError(
            f"{folder} must load as an image-to-image pipeline of diffusers, but: "
            f"{one_line(error)}; download it again or choose another model"
        ) from error


def _variant(folder: Path) -> str | None:
    """Return "fp16" if the denoiser's weights exist only in that variant."""
    names = [
        p.name for part in ("unet", "transformer") for p in folder.glob(f"{part}/*.safetensors")
    ]
    return "fp16" if names and all(".fp16." in name for name in names) else None


def _default_dtype(device: str, fast: bool) -> torch.dtype:
    if device != "cuda":  # half precision has produced black images on Macs
        return torch.float32
    return torch.float16 if fast or not torch.cuda.is_bf16_supported() else torch.bfloat16


def _distilled(pipeline: Any) -> tuple[int, float] | None:
    """Return the steps and guidance scale of a model distilled to few steps, or None for any other.

    The scheduler identifies such models. LCM and TCD take 8 steps. They are guided only if the
    denoiser takes the guidance scale as an input, because otherwise they were distilled from guided
    predictions. Turbo, Lightning and similar models have an Euler scheduler with trailing timesteps
    and take 4 steps without guidance. Models with zero terminal SNR also have trailing timesteps,
    but take many steps.
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
    """Return all files that a model is loaded from; raise GenieError if it is not one."""
    settings = folder / "genie.json"
    found = [settings] if settings.is_file() else []
    return [*found, *_weights_and_settings(folder, _read_index(folder))]


def _fingerprint(folder: Path, index: dict[str, Any]) -> str:
    """Compute the fingerprint of all files that determine pixels."""
    return fingerprint(folder, _weights_and_settings(folder, index))


def _weights_and_settings(folder: Path, index: dict[str, Any]) -> list[Path]:
    parts = [name for name in index if not name.startswith("_") and name not in _NOT_LOADED]
    files = [p for part in parts for p in (folder / part).rglob("*") if p.is_file()]
    return [folder / "model_index.json", *files]
