"""Text-to-image diffusion models: loads any image-to-image pipeline of a diffusers folder.

No safety checker is loaded: it would return black squares as training images.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoPipelineForImage2Image, DPMSolverMultistepScheduler
from PIL import Image, ImageOps

from genie.denoiser import Denoiser, load_denoiser, uses_openvino
from genie.errors import GenieError

_NOT_LOADED = ("safety_checker", "feature_extractor", "image_encoder")
_SETTINGS = "genie.json"


@dataclass(frozen=True)
class Generator:
    """A loaded model, with the guidance and the number of steps that suit it.

    `size` is the side of its square images, in pixels. `dtype` is what the denoiser computes in;
    weights may be wider (`pipeline.dtype`).
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
        """Whether it takes the fast path: Stable Diffusion's family."""
        return self.denoiser is not None

    @property
    def scheduler(self) -> str:
        """Class name of the scheduler that renders."""
        return type(self.pipeline.scheduler).__name__


def load_generator(
    folder: Path,
    *,
    device: str | None = None,
    compile: bool | None = None,
    dtype: torch.dtype | None = None,
) -> Generator:
    """Load any image-to-image pipeline from a local diffusers folder, safetensors only.

    `genie.json` beside `model_index.json` may give `guidance_scale`, `steps` and `size`; otherwise
    7.5 and 50, or what suits a model distilled to few steps, and the pipeline's native size.
    `compile` as in `load_denoiser`; `dtype` as None means float32 on a CPU, on a GPU float16 for
    Stable Diffusion, which was released for it, else bfloat16.
    GenieError if the folder is not a diffusers model, or a CPU is asked for float16.
    """
    index = _read_index(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    fast = index["_class_name"] in ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
    dtype = dtype or _default_dtype(device, fast)
    if device == "cpu" and dtype == torch.float16:
        raise GenieError(
            "generator.dtype float16 needs a GPU, this machine has none; use bfloat16 or float32"
        )
    converted = fast and uses_openvino(device, compile)
    pipeline = _load_pipeline(folder, index, torch.float32 if converted else dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    distilled = _distilled(pipeline)
    fast = fast and pipeline.unet.config.in_channels == 4 and distilled is None
    steps, guidance_scale = distilled or (50, 7.5)
    denoiser = None
    if fast:
        pipeline.scheduler = dpm_solver(pipeline.scheduler.config)
        pipeline.vae.to(memory_format=torch.channels_last)
        denoiser = load_denoiser(pipeline.unet, device=device, compile=compile, dtype=dtype)
    settings = _read_json(folder / _SETTINGS) if (folder / _SETTINGS).is_file() else {}
    given = settings.get("guidance_scale")  # 0 is a value, null is none
    return Generator(
        pipeline=pipeline,
        name=folder.name,
        fingerprint=_fingerprint(folder, index),
        guidance_scale=float(guidance_scale if given is None else given),
        steps=int(settings.get("steps") or steps),
        size=int(settings.get("size") or _native_size(pipeline)),
        device=device,
        dtype=dtype,
        denoiser=denoiser,
    )


@torch.inference_mode()
def encode_images(images: Sequence[Image.Image], generator: Generator) -> torch.Tensor:
    """Modes of the VAE's posterior, scaled: float32 (n, 4, h, w) on the CPU, for the fast path."""
    pixels = generator.pipeline.image_processor.preprocess(
        [fit(image, generator.size) for image in images]
    )
    pixels = pixels.to(generator.device, generator.pipeline.dtype)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    vae = generator.pipeline.vae
    return (vae.config.scaling_factor * vae.encode(pixels).latent_dist.mode()).float().cpu()


def dpm_solver(config: Mapping[str, Any]) -> Any:
    """The paper's solver over a model's noise schedule, with evenly spaced timesteps."""
    return DPMSolverMultistepScheduler.from_config(config, timestep_spacing="linspace")


def fit(image: Image.Image, size: int) -> Image.Image:
    """The image at size x size: cut to its central square and resized if it is not so already."""
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), method=Image.Resampling.LANCZOS)


def _read_index(folder: Path) -> dict[str, Any]:
    remedy = f"run `genie fetch ID {folder}` to bring a model"
    if not folder.is_dir():
        raise GenieError(f"generator.model must be a folder, {folder} does not exist; {remedy}")
    if not (folder / "model_index.json").is_file():
        raise GenieError(
            f"{folder} must be a diffusers model, but has no model_index.json; {remedy}"
        )
    index = _read_json(folder / "model_index.json")
    if not any(folder.glob("*/*.safetensors")):
        raise GenieError(
            f"{folder} must hold its weights as .safetensors, found none; {remedy} that has them"
        )
    if "_class_name" not in index:
        raise GenieError(f"{folder}/model_index.json must name its `_class_name`; {remedy}")
    return index


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GenieError(f"{path} must be JSON, but {error}; mend or fetch it again") from error
    if not isinstance(value, dict):
        raise GenieError(f"{path} must be a JSON object, got {value!r}; mend or fetch it again")
    return value


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
            f"{' '.join(str(error).split())}; fetch it again or choose another model"
        ) from error


def _variant(folder: Path) -> str | None:
    """ "fp16" where the denoiser's weights exist in that variant only."""
    names = [
        p.name for part in ("unet", "transformer") for p in folder.glob(f"{part}/*.safetensors")
    ]
    return "fp16" if names and all(".fp16." in name for name in names) else None


def _default_dtype(device: str, fast: bool) -> torch.dtype:
    if device == "cpu":
        return torch.float32
    return torch.float16 if fast or not torch.cuda.is_bf16_supported() else torch.bfloat16


def _distilled(pipeline: Any) -> tuple[int, float] | None:
    """Steps and guidance scale of a model distilled to few steps, told by its scheduler.

    LCM and TCD: 8 steps; guided where the denoiser takes the scale as an input, else not, since it
    was distilled from guided predictions. Turbo, Lightning and their like come with an Euler
    scheduler whose timesteps trail: 4 steps, never guided. (Models of zero terminal SNR have
    trailing timesteps too, but take many steps.)
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


def _fingerprint(folder: Path, index: dict[str, Any]) -> str:
    """SHA-256 (hex) over names and bytes of the files that are loaded: content, not path."""
    parts = [name for name in index if not name.startswith("_") and name not in _NOT_LOADED]
    files = [p for part in parts for p in (folder / part).rglob("*") if p.is_file()]
    total = hashlib.sha256()
    for path in sorted([folder / "model_index.json", *files]):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()
