"""Textual inversion (Gal et al. 2023), which learns a token per class for DA-Fusion.

The embedding of one new token is trained so that the frozen model denoises the class's images under
a prompt with that token. As in diffusers, a token's file is a safetensors file that maps the token
to its embedding (1, d).
"""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from genie.core.errors import InvalidValueError
from genie.core.seeding import digest, step_seed, task_seed
from genie.data.images import decode_image
from genie.render.model import Generator, encode_images
from genie.render.model_info import STABLE_DIFFUSION

INVERSION_VERSION = 2  # increase it whenever a change in this module changes tokens
SAVE_EVERY = 100
LEARNING_RATE = 0.005  # as in Gal et al. 2023, section 4.3
BATCH_SIZE = 4
_PLACEHOLDER = "<learned>"


@dataclass(frozen=True)
class InversionSettings:
    """Training settings for a token; `template` is a prompt with `{class}` in place of it."""

    steps: int
    template: str
    seed: int
    learning_rate: float = LEARNING_RATE
    batch_size: int = BATCH_SIZE


def token_name(
    images: Sequence[str], word: str, *, generator: Generator, settings: InversionSettings
) -> str:
    """Return the name of a class's token: a hash of image ids, start word, model and settings."""
    parts = {
        "images": sorted(images),
        "word": word,
        "generator": generator.info.fingerprint,
        "dtype": str(generator.pipeline.dtype),
        "settings": asdict(settings),
        "version": INVERSION_VERSION,
    }
    return f"<token-{digest(json.dumps(parts, sort_keys=True)).hex()[:16]}>"


def learn_token(
    pngs: Mapping[str, bytes],
    word: str,
    *,
    generator: Generator,
    settings: InversionSettings,
    folder: Path,
) -> tuple[str, Path]:
    """Learn a token from images, unless its file exists; return the token and its file in `folder`.

    `pngs` maps the ids of the class's images to PNG bytes. `word` is the class name, from which the
    token is initialised. Interrupted training resumes from its last checkpoint and produces the
    same token. Raise InvalidValueError for a model outside the Stable Diffusion family.
    """
    if generator.info.family != STABLE_DIFFUSION:
        raise InvalidValueError(
            "must be of the Stable Diffusion family to learn a token",
            argument="model",
            value=generator.info.name,
            remedy="choose another method than da-fusion, or another model",
        )
    name = token_name(list(pngs), word, generator=generator, settings=settings)
    path = folder / f"{name.strip('<>')}.safetensors"
    if not path.is_file():
        images = [decode_image(pngs[i]) for i in sorted(pngs)]
        latents = encode_images(images, generator).clone()  # inference tensors cannot be trained on
        vector = train_vector(
            latents,
            word,
            generator=generator,
            settings=replace(settings, seed=task_seed(settings.seed, name, "inversion")),
            saved=path.with_suffix(".part"),
        )
        _write({name: vector[None].contiguous()}, path)
        path.with_suffix(".part").unlink(missing_ok=True)
    return name, path


def add_tokens(generator: Generator, tokens: Mapping[str, Path]) -> None:
    """Load tokens into the pipeline with diffusers' loader, skipping those already loaded."""
    known = generator.pipeline.tokenizer.get_vocab()
    for name, path in tokens.items():
        if name not in known:
            generator.pipeline.load_textual_inversion(load_file(path), token=name)


def add_vectors(generator: Generator, tokens: Mapping[str, torch.Tensor]) -> None:
    """Add tokens with embeddings (n, d) that were learned in another process."""
    for name, vectors in tokens.items():
        generator.pipeline.load_textual_inversion({name: vectors}, token=name)


def train_vector(
    latents: torch.Tensor,
    word: str,
    *,
    generator: Generator,
    settings: InversionSettings,
    saved: Path,
) -> torch.Tensor:
    """Train a token on scaled latents (n, 4, h, w) and return its embedding (d,).

    In float16, the loss is scaled, so that small gradients do not underflow.
    """
    tokenizer, encoder, placeholder = _with_placeholder(generator)
    vector = _start(word, tokenizer, encoder)
    optimiser = torch.optim.AdamW([vector], lr=settings.learning_rate, weight_decay=0.0)
    half = generator.pipeline.dtype == torch.float16
    scaler = torch.amp.GradScaler(torch.device(generator.info.device).type, enabled=half)
    first = _resume(saved, vector, optimiser, scaler)
    ids = _prompt_ids(settings.template, tokenizer, generator)

    def swap(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where((inputs[0] == placeholder)[..., None], vector.to(output.dtype), output)

    handle = encoder.get_input_embeddings().register_forward_hook(swap)
    try:
        for step in range(first, settings.steps):
            draw = torch.Generator().manual_seed(step_seed(settings.seed, step))
            rows = torch.randint(len(latents), (settings.batch_size,), generator=draw)
            context = encoder(ids)[0].expand(settings.batch_size, -1, -1)
            loss = denoising_loss(latents[rows], context, generator=generator, draw=draw)
            optimiser.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
            if (step + 1) % SAVE_EVERY == 0:
                _save(saved, vector, optimiser, scaler, step + 1)
    finally:
        handle.remove()
    return vector.detach().float().cpu()


def _start(word: str, tokenizer: Any, encoder: Any) -> torch.nn.Parameter:
    """Return the mean embedding (d,) of the word's tokens."""
    tokens = tokenizer(word, add_special_tokens=False).input_ids
    with torch.no_grad():
        table = encoder.get_input_embeddings().weight
        return torch.nn.Parameter(table[tokens].mean(0) if tokens else table.mean(0))


def _prompt_ids(template: str, tokenizer: Any, generator: Generator) -> torch.Tensor:
    """Return the token ids (1, tokens) of the prompt with the placeholder."""
    return tokenizer(
        template.replace("{class}", _PLACEHOLDER),
        padding="max_length",
        max_length=generator.pipeline.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids.to(generator.info.device)


def denoising_loss(
    latents: torch.Tensor, context: torch.Tensor, *, generator: Generator, draw: torch.Generator
) -> torch.Tensor:
    """Compute the denoiser's mean squared error at random timesteps.

    `latents` has the shape (B, 4, h, w), and `context` the shape (B, tokens, d).
    """
    scheduler = generator.pipeline.scheduler
    timestep = torch.randint(len(scheduler.alphas_cumprod), (len(latents),), generator=draw)
    noise = torch.randn(latents.shape, generator=draw)
    kept = scheduler.alphas_cumprod.cpu()[timestep].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    objective = {
        "epsilon": noise,
        "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * latents,
        "sample": latents,
    }[scheduler.config.prediction_type]
    device, dtype = generator.info.device, generator.pipeline.dtype
    predicted = generator.pipeline.unet(
        noisy.to(device, dtype), timestep.to(device), encoder_hidden_states=context.to(dtype)
    ).sample
    return torch.nn.functional.mse_loss(predicted.float(), objective.to(device))


def _with_placeholder(generator: Generator) -> tuple[Any, Any, int]:
    """Return copies of the tokenizer and text encoder with the placeholder, and its token id."""
    tokenizer = copy.deepcopy(generator.pipeline.tokenizer)
    tokenizer.add_tokens(_PLACEHOLDER)
    encoder = copy.deepcopy(generator.pipeline.text_encoder).float()
    encoder.resize_token_embeddings(len(tokenizer))
    for part in (encoder, generator.pipeline.unet):
        part.requires_grad_(False)
    return tokenizer, encoder, tokenizer.convert_tokens_to_ids(_PLACEHOLDER)


_ADAM = ("step", "exp_avg", "exp_avg_sq")


def _save(
    path: Path,
    vector: torch.nn.Parameter,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    step: int,
) -> None:
    """Write a checkpoint; `step` includes steps that were skipped because gradients overflowed."""
    state = optimiser.state[vector]
    numbers = {"steps": torch.tensor(step)}
    if scaler.is_enabled():
        scaling = scaler.state_dict()
        numbers |= {name: torch.tensor(scaling[name]) for name in ("scale", "_growth_tracker")}
    adam = {name: state[name] for name in _ADAM if name in state}
    _write({"vector": vector.detach(), **adam, **numbers}, path)


def _resume(
    path: Path,
    vector: torch.nn.Parameter,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> int:
    """Restore the checkpoint, if there is one, and return the number of completed steps."""
    if not path.is_file():
        return 0
    saved = load_file(path, device=str(vector.device))
    vector.data.copy_(saved["vector"])
    adam = {name: saved[name] for name in _ADAM if name in saved}
    if adam:
        optimiser.state[vector] = adam | {"step": adam["step"].cpu()}
    if scaler.is_enabled():
        numbers = {name: saved[name].item() for name in ("scale", "_growth_tracker")}
        scaler.load_state_dict(scaler.state_dict() | numbers)
    return int(saved["steps"])


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(path)
