"""A learned token per class, by textual inversion (Gal et al. 2023), as DA-Fusion needs.

The vector of one new token is trained so that the frozen model denoises the class's images under
a prompt with that token. Files are those of diffusers: safetensors with `{token: (1, d)}`.
"""

import copy
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from genie.errors import GenieError
from genie.generator import Generator, encode_images
from genie.records import decode_png

INVERSION_VERSION = 1  # raise it whenever a change here changes tokens
SAVE_EVERY = 100
_PLACEHOLDER = "<learned>"


@dataclass(frozen=True)
class InversionSettings:
    """How long and how fast a token is trained; `template` holds `{class}` in the token's place."""

    steps: int
    learning_rate: float
    batch_size: int
    template: str
    seed: int


def token_name(
    images: Sequence[str], word: str, *, generator: Generator, settings: InversionSettings
) -> str:
    """The token of a class: a hash of the images (ids), start word, model and settings."""
    parts = {
        "images": sorted(images),
        "word": word,
        "generator": generator.fingerprint,
        "dtype": str(generator.pipeline.dtype),
        "settings": asdict(settings),
        "version": INVERSION_VERSION,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"<token-{digest[:16]}>"


def learn_token(
    pngs: Mapping[str, bytes],
    word: str,
    *,
    generator: Generator,
    settings: InversionSettings,
    folder: Path,
) -> tuple[str, Path]:
    """The token of the images and its file in `folder`, trained unless the file is there.

    `pngs` holds the class's images by id, `word` is where the token starts (the class name). A
    killed training goes on where it was saved last and gives the same token. Raises GenieError
    for a model that is not of the Stable Diffusion family.
    """
    if not generator.fast:
        raise GenieError(
            f"method da-fusion needs a Stable Diffusion model as generator.model, got "
            f"{generator.name}, which has another text encoder; choose another method or model"
        )
    name = token_name(list(pngs), word, generator=generator, settings=settings)
    path = folder / f"{name.strip('<>')}.safetensors"
    if not path.is_file():
        images = [decode_png(pngs[i]) for i in sorted(pngs)]
        latents = encode_images(images, generator).clone()  # out of inference mode
        vector = train_vector(
            latents, word, generator=generator, settings=settings, saved=path.with_suffix(".part")
        )
        _write({name: vector[None].contiguous()}, path)
        path.with_suffix(".part").unlink(missing_ok=True)
    return name, path


def add_tokens(generator: Generator, tokens: Mapping[str, Path]) -> None:
    """Teach the pipeline its tokens, by diffusers' own loader; those it knows are passed over."""
    known = generator.pipeline.tokenizer.get_vocab()
    for name, path in tokens.items():
        if name not in known:
            generator.pipeline.load_textual_inversion(load_file(path), token=name)


def train_vector(
    latents: torch.Tensor,
    word: str,
    *,
    generator: Generator,
    settings: InversionSettings,
    saved: Path,
) -> torch.Tensor:
    """The token's vector (d,) after training on scaled latents (n, 4, h, w)."""
    tokenizer, encoder, spot = _with_placeholder(generator)
    words = tokenizer(word, add_special_tokens=False).input_ids
    with torch.no_grad():
        table = encoder.get_input_embeddings().weight
        vector = torch.nn.Parameter(table[words].mean(0) if words else table.mean(0))
    optimiser = torch.optim.AdamW([vector], lr=settings.learning_rate, weight_decay=0.0)
    start = _resume(saved, vector, optimiser)
    prompt = settings.template.replace("{class}", _PLACEHOLDER)
    ids = tokenizer(
        prompt,
        padding="max_length",
        max_length=generator.pipeline.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids.to(generator.device)

    def swap(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where((inputs[0] == spot)[..., None], vector.to(output.dtype), output)

    handle = encoder.get_input_embeddings().register_forward_hook(swap)
    try:
        for step in range(start, settings.steps):
            draw = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
            rows = torch.randint(len(latents), (settings.batch_size,), generator=draw)
            context = encoder(ids)[0].expand(settings.batch_size, -1, -1)
            loss = denoising_loss(latents[rows], context, generator=generator, draw=draw)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if (step + 1) % SAVE_EVERY == 0:
                _save(saved, vector, optimiser, step + 1)
    finally:
        handle.remove()
    return vector.detach().float().cpu()


def denoising_loss(
    latents: torch.Tensor, context: torch.Tensor, *, generator: Generator, draw: torch.Generator
) -> torch.Tensor:
    """Mean squared error of the denoiser at random timesteps under `context` (B, tokens, d)."""
    scheduler = generator.pipeline.scheduler
    timestep = torch.randint(len(scheduler.alphas_cumprod), (len(latents),), generator=draw)
    noise = torch.randn(latents.shape, generator=draw)
    kept = scheduler.alphas_cumprod.cpu()[timestep].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    wanted = noise
    if scheduler.config.prediction_type == "v_prediction":
        wanted = kept.sqrt() * noise - (1 - kept).sqrt() * latents
    device, dtype = generator.device, generator.pipeline.dtype
    predicted = generator.pipeline.unet(
        noisy.to(device, dtype), timestep.to(device), encoder_hidden_states=context.to(dtype)
    ).sample
    return torch.nn.functional.mse_loss(predicted.float(), wanted.to(device))


def _with_placeholder(generator: Generator) -> tuple[Any, Any, int]:
    """Copies of tokenizer and text encoder (float32) that know the placeholder, and its id."""
    tokenizer = copy.deepcopy(generator.pipeline.tokenizer)
    tokenizer.add_tokens(_PLACEHOLDER)
    encoder = copy.deepcopy(generator.pipeline.text_encoder).float()
    encoder.resize_token_embeddings(len(tokenizer))
    for part in (encoder, generator.pipeline.unet):
        part.requires_grad_(False)
    return tokenizer, encoder, tokenizer.convert_tokens_to_ids(_PLACEHOLDER)


def _save(
    path: Path, vector: torch.nn.Parameter, optimiser: torch.optim.Optimizer, step: int
) -> None:
    state = {k: v for k, v in optimiser.state[vector].items() if k in ("exp_avg", "exp_avg_sq")}
    _write({"vector": vector.detach(), "step": torch.tensor(step), **state}, path)


def _resume(path: Path, vector: torch.nn.Parameter, optimiser: torch.optim.Optimizer) -> int:
    """Go back to the saved state, if there is one, and return how many steps it has taken."""
    if not path.is_file():
        return 0
    saved = load_file(path, device=str(vector.device))
    vector.data.copy_(saved["vector"])
    step = int(saved["step"])
    optimiser.state[vector] = {
        "step": torch.tensor(float(step)),
        "exp_avg": saved["exp_avg"],
        "exp_avg_sq": saved["exp_avg_sq"],
    }
    return step


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(path)
