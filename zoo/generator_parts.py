"""The latent diffusion model of `zoo/generator`: autoencoder, text encoder, tokenizer, denoiser."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import l1_loss, mse_loss
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from zoo.loop import attention, pick_device, share, train
from zoo.parts import Part
from zoo.perceptual import load_lpips
from zoo.recipes import Recipe

LENGTH = 24
LATENTS = "latents.safetensors"  # of all pretraining images, computed once
STEPS = 20  # denoising steps; not clearly different from 50, see docs/reference/decisions.md
SCALED_BY = 5_000  # images from which the scaling factor of latents is measured
BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
TEMPLATES = (
    "a photo of a {name}",
    "a picture of a {name}",
    "{name}",
    "a photo of a {name}, a type of {superclass}",
)
TEMPLATE_ODDS = (0.7, 0.1, 0.1, 0.1)
EMPTY_ODDS = 0.1


def pixels(images: Tensor) -> Tensor:
    """Convert uint8 images (n, 32, 32) or (n, 32, 32, 3) to RGB (n, 3, 32, 32) in [-1, 1]."""
    if images.ndim == 3:
        images = images[..., None].expand(-1, -1, -1, 3)
    return (images.float() / 127.5 - 1).permute(0, 3, 1, 2).contiguous()


def tiny_vae(recipe: Recipe) -> AutoencoderKL:
    """Build an autoencoder with two downsamplings, from 32x32 RGB to 8x8 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=recipe.vae_channels,
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
    )


def tiny_unet(recipe: Recipe) -> UNet2DConditionModel:
    """Build a denoiser for 8x8 latents with two levels.

    A denoiser that predicts velocity also adds the pooled prompt to the timestep embedding, which
    scales every layer. The denoiser then learns the classes in fewer steps. It has attention only
    at its lower level, which makes each step faster.
    """
    lean = recipe.velocity
    everywhere = {
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
        "resnet_time_scale_shift": "scale_shift",
    }
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        block_out_channels=recipe.unet_channels,
        layers_per_block=1,
        down_block_types=(
            "DownBlock2D" if lean else "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
        ),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D" if lean else "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16 if lean else 32,
        **(everywhere if lean else {}),
    )


def tiny_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build a CLIP text encoder with two layers of width 128."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        projection_dim=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def word_tokenizer(recipe: Recipe) -> CLIPTokenizer:
    """Build CLIP's byte-level BPE tokenizer so that every word in the prompts is one token.

    The vocabulary contains all 256 bytes, within and at the end of a word, so any text can be
    encoded.
    """
    text = " ".join(prompts(recipe)).lower()
    words = sorted(set(text.replace("/", " ").replace("-", " ").replace(",", " ").split()))
    merges = learn_merges(words)
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m) for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Learn byte-pair merges, most frequent pair first, until every word is one token."""
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    while counts := Counter(pair for piece in pieces for pair in zip(piece, piece[1:])):  # noqa: B905, RUF007
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        pieces = [_merge(piece, best) for piece in pieces]
    return merges


def _merge(piece: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for token in piece:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def prompts(recipe: Recipe) -> list[str]:
    """Return all training prompts by class and template, with the empty prompt last."""
    filled = [
        template.format(name=name, superclass=recipe.superclass[name])
        for name in recipe.classes
        for template in TEMPLATES
    ]
    return [*filled, ""]


def prompt_rows(labels: Tensor, draw: torch.Generator, *, classes: int) -> Tensor:
    """Draw a row of `prompts()` for each label: a prompt for its class, or the empty prompt."""
    template = torch.multinomial(
        torch.tensor(TEMPLATE_ODDS), len(labels), replacement=True, generator=draw
    )
    empty = torch.rand(len(labels), generator=draw) < EMPTY_ODDS
    return torch.where(empty, classes * len(TEMPLATES), labels * len(TEMPLATES) + template)


def train_vae(part: Part, recipe: Recipe, *, stop: int | None = None) -> AutoencoderKL:
    """Train the autoencoder and store the measured scale of its latents in its configuration."""
    torch.manual_seed(0)
    device = pick_device()
    vae = tiny_vae(recipe).to(device)
    lpips = load_lpips().to(device) if recipe.perceptual else None
    images = torch.from_numpy(part.images)

    def loss(draw: torch.Generator) -> Tensor:
        batch = pixels(_sample(images, share(recipe.vae.batch), draw)).to(device)
        moments = vae.quant_conv(vae.encoder(batch))
        mean, logvar = moments.chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=draw).to(device)
        latent = mean + torch.exp(0.5 * logvar.clamp(-30, 20)) * noise
        output = vae.decode(latent).sample
        value = reconstruction_loss(output, batch) + recipe.kl_weight * kl(mean, logvar)
        if lpips is not None:
            value = value + recipe.perceptual * lpips(output, batch).mean()
        return value

    trained = train(
        vae,
        loss,
        name="vae",
        steps=recipe.vae.steps,
        rate=recipe.vae.rate,
        ema=0.995,
        half=True,
        stop=stop,
        state=recipe.state,
    )
    assert isinstance(trained, AutoencoderKL)
    some = Part(part.images[:SCALED_BY], part.labels[:SCALED_BY])
    scale = 1 / encode(trained, some).std().item()
    trained.register_to_config(scaling_factor=round(scale, 5))
    return trained


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Compute the L1 loss of pixels and their gradients, which keeps edges sharp."""
    across = l1_loss(output.diff(dim=-1), target.diff(dim=-1))
    down = l1_loss(output.diff(dim=-2), target.diff(dim=-2))
    return l1_loss(output, target) + across + down


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """Compute the KL divergence of the posterior from a standard normal distribution.

    The divergence is summed over each image and averaged over images.
    """
    per_value = mean.square() + logvar.exp() - 1 - logvar
    return 0.5 * per_value.flatten(1).sum(1).mean()


@torch.inference_mode()
def encode(vae: AutoencoderKL, part: Part) -> Tensor:
    """Return the unscaled posterior means (n, c, 8, 8) of all images, on the CPU."""
    means = []
    for batch in tqdm(torch.from_numpy(part.images).split(200), desc="encoding latents"):
        with torch.autocast(vae.device.type, torch.bfloat16):
            means.append(vae.encode(pixels(batch).to(vae.device)).latent_dist.mode())
    return torch.cat(means).float().cpu().clone()


class Denoiser(nn.Module):
    """The U-Net and the text encoder, which are trained jointly."""

    def __init__(self, tokenizer: CLIPTokenizer, recipe: Recipe) -> None:
        super().__init__()
        self.unet = tiny_unet(recipe)
        self.text_encoder = tiny_text_encoder(tokenizer)

    def forward(self, noisy: Tensor, timestep: Tensor, tokens: Tensor, row: Tensor) -> Tensor:
        """Predict noise or velocity (n, c, 8, 8); `row` (n,) indexes the prompts in `tokens`."""
        with sdpa_kernel(attention(noisy.device)):
            context = self.text_encoder(tokens).last_hidden_state[row]
            return self.unet(noisy, timestep, context).sample


def train_denoiser(recipe: Recipe, *, stop: int | None = None) -> Denoiser:
    """Train the denoiser on the autoencoder's latents to predict noise or velocity."""
    torch.manual_seed(0)
    device = pick_device()
    tokenizer = word_tokenizer(recipe)
    stored = load_file(recipe.state / LATENTS)
    latents, labels = stored["latents"], stored["labels"]
    tokens = tokenize(tokenizer, prompts(recipe)).to(device)
    schedule = DDPMScheduler(**BETAS)
    model = Denoiser(tokenizer, recipe).to(device)

    def loss(draw: torch.Generator) -> Tensor:
        batch = share(recipe.unet.batch)
        index = torch.randint(len(latents), (batch,), generator=draw)
        timestep = torch.randint(1000, (batch,), generator=draw)
        noise = torch.randn((batch, *latents.shape[1:]), generator=draw)
        row = prompt_rows(labels[index], draw, classes=len(recipe.classes)).to(device)
        noisy = schedule.add_noise(latents[index], noise, timestep).to(device)
        predicted = model(noisy, timestep.to(device), tokens, row).float()
        if not recipe.velocity:
            return mse_loss(predicted, noise.to(device))
        wanted = schedule.get_velocity(latents[index], noise, timestep).to(device)
        error = (predicted - wanted).square().mean((1, 2, 3))
        return (error * min_snr_weight(schedule, timestep).to(device)).mean()

    trained = train(
        model,
        loss,
        name="unet",
        steps=recipe.unet.steps,
        stop=stop,
        rate=recipe.unet.rate,
        ema=recipe.unet_average,
        half=recipe.velocity,
        decay=recipe.unet_decay,
        every=recipe.unet_snapshots,
        state=recipe.state,
    )
    assert isinstance(trained, Denoiser)
    return trained


def training_latents(vae: AutoencoderKL, part: Part, *, mirrored: bool) -> dict[str, Tensor]:
    """Return the scaled latents (n, c, 8, 8) and labels (n,), with mirror images if `mirrored`."""
    latents, labels = encode(vae, part), torch.from_numpy(part.labels)
    if mirrored:
        flipped = Part(np.ascontiguousarray(part.images[:, :, ::-1]), part.labels)
        latents, labels = torch.cat([latents, encode(vae, flipped)]), labels.repeat(2)
    return {"latents": latents * vae.config["scaling_factor"], "labels": labels}


def min_snr_weight(schedule: DDPMScheduler, timestep: Tensor, gamma: float = 5.0) -> Tensor:
    """Return min(SNR, gamma) / (SNR + 1), the weight of velocity errors (Hang et al. 2023)."""
    kept = schedule.alphas_cumprod[timestep]
    snr = kept / (1 - kept)
    return snr.clamp(max=gamma) / (snr + 1)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return token ids (n, LENGTH), padded as in the pipeline."""
    return tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def save_generator(vae: AutoencoderKL, denoiser: Denoiser, recipe: Recipe, folder: Path) -> None:
    """Save a Stable Diffusion model in half precision, with its genie.json."""
    prediction = "v_prediction" if recipe.velocity else "epsilon"
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=denoiser.text_encoder.half(),
        tokenizer=word_tokenizer(recipe),
        unet=denoiser.unet.half(),
        scheduler=DPMSolverMultistepScheduler(
            **BETAS, timestep_spacing="linspace", prediction_type=prediction, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    vae.register_to_config(_name_or_path="")  # otherwise the path of the training folder
    pipeline.save_pretrained(folder, safe_serialization=True)
    settings = {
        "guidance_scale": recipe.guidance,
        "steps": STEPS,
        "size": 32,
        "classes": known_names(recipe),
        "license": "MIT",
    }
    (folder / "genie.json").write_text(json.dumps(settings, indent=2) + "\n")


def known_names(recipe: Recipe) -> list[str]:
    """Return the class names and, for names with a slash, also the words on either side of it."""
    return list(dict.fromkeys(word for name in recipe.classes for word in (name, *name.split("/"))))


def _sample(images: Tensor, size: int, draw: torch.Generator) -> Tensor:
    return images[torch.randint(len(images), (size,), generator=draw)]
