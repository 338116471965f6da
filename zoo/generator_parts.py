"""The latent diffusion model of `zoo/generator`: autoencoder, text encoder, tokenizer, denoiser."""

import json
from collections import Counter
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from zoo.fashion_mnist import CLASSES, Part
from zoo.loop import STATE, pick_device, train

VAE_STEPS, VAE_BATCH, VAE_RATE = 2_500, 64, 2e-3
UNET_STEPS, UNET_BATCH, UNET_RATE = 5_600, 64, 8e-4
KL_WEIGHT = 1e-6
LENGTH = 24
GUIDANCE = 3.0
STEPS = 20  # denoising steps; as good as 50, see docs/evidence.md
BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
SUPERCLASS = {
    "T-shirt/top": "top",
    "trouser": "garment",
    "pullover": "top",
    "dress": "garment",
    "coat": "top",
    "sandal": "shoe",
    "shirt": "top",
    "sneaker": "shoe",
    "bag": "accessory",
    "ankle boot": "shoe",
}
TEMPLATES = (
    "a photo of a {name}",
    "a picture of a {name}",
    "{name}",
    "a photo of a {name}, a type of {superclass}",
)
TEMPLATE_ODDS = (0.7, 0.1, 0.1, 0.1)
EMPTY_ODDS = 0.1


def pixels(grey: Tensor) -> Tensor:
    """Convert greyscale uint8 (n, 32, 32) to RGB (n, 3, 32, 32) in [-1, 1]."""
    return (grey.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1).contiguous()


def tiny_vae() -> AutoencoderKL:
    """Build an autoencoder with two downsamplings, from 32x32 RGB to 8x8 with 4 channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
    )


def tiny_unet() -> UNet2DConditionModel:
    """Build a denoiser for 8x8 latents with cross-attention at both of its levels."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=32,
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


def word_tokenizer() -> CLIPTokenizer:
    """Build CLIP's byte-level BPE tokenizer such that every word of the prompts is one token.

    The vocabulary contains all 256 bytes, within and at the end of a word, so any text can be
    encoded.
    """
    text = " ".join(prompts()).lower()
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


def prompts() -> list[str]:
    """Return all training prompts by class and template, with the empty prompt last."""
    filled = [
        template.format(name=name, superclass=SUPERCLASS[name])
        for name in CLASSES
        for template in TEMPLATES
    ]
    return [*filled, ""]


def prompt_rows(labels: Tensor, draw: torch.Generator) -> Tensor:
    """Draw a row of `prompts()` for each label: a prompt of its class, sometimes the empty one."""
    template = torch.multinomial(
        torch.tensor(TEMPLATE_ODDS), len(labels), replacement=True, generator=draw
    )
    empty = torch.rand(len(labels), generator=draw) < EMPTY_ODDS
    return torch.where(empty, len(CLASSES) * len(TEMPLATES), labels * len(TEMPLATES) + template)


def train_vae(part: Part, *, steps: int = VAE_STEPS, state: Path = STATE) -> AutoencoderKL:
    """Train the autoencoder and store the measured scale of its latents in its configuration."""
    torch.manual_seed(0)
    device = pick_device()
    vae = tiny_vae().to(device)
    images = torch.from_numpy(part.images)

    def loss(draw: torch.Generator) -> Tensor:
        batch = pixels(_sample(images, VAE_BATCH, draw)).to(device)
        moments = vae.quant_conv(vae.encoder(batch))
        mean, logvar = moments.chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=draw).to(device)
        latent = mean + torch.exp(0.5 * logvar.clamp(-30, 20)) * noise
        return reconstruction_loss(vae.decode(latent).sample, batch) + KL_WEIGHT * kl(mean, logvar)

    trained = train(
        vae, loss, name="vae", steps=steps, rate=VAE_RATE, ema=0.995, half=True, state=state
    )
    assert isinstance(trained, AutoencoderKL)
    scale = 1 / encode(trained, part).std().item()
    trained.register_to_config(scaling_factor=round(scale, 5))
    return trained


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Compute the L1 loss of pixels and of their gradients, which keeps edges sharp."""
    across = l1_loss(output.diff(dim=-1), target.diff(dim=-1))
    down = l1_loss(output.diff(dim=-2), target.diff(dim=-2))
    return l1_loss(output, target) + across + down


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """Compute the KL divergence of the posterior from a standard normal distribution.

    It is summed over each image and averaged over images.
    """
    per_value = mean.square() + logvar.exp() - 1 - logvar
    return 0.5 * per_value.flatten(1).sum(1).mean()


@torch.inference_mode()
def encode(vae: AutoencoderKL, part: Part) -> Tensor:
    """Return the unscaled posterior means (n, 4, 8, 8) of all images, on the CPU."""
    batches = torch.from_numpy(part.images).split(500)
    return torch.cat(
        [
            vae.encode(pixels(batch).to(vae.device)).latent_dist.mode().cpu()
            for batch in tqdm(batches, desc="encoding latents")
        ]
    ).clone()


class Denoiser(nn.Module):
    """The U-Net and the text encoder, which are trained jointly."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = tiny_unet()
        self.text_encoder = tiny_text_encoder(tokenizer)

    def forward(self, noisy: Tensor, timestep: Tensor, tokens: Tensor, row: Tensor) -> Tensor:
        """Predict the noise (n, 4, 8, 8); `row` (n,) indexes each image's prompt in `tokens`."""
        context = self.text_encoder(tokens).last_hidden_state[row]
        return self.unet(noisy, timestep, context).sample


def train_denoiser(
    vae: AutoencoderKL,
    part: Part,
    *,
    steps: int = UNET_STEPS,
    stop: int | None = None,
    state: Path = STATE,
) -> Denoiser:
    """Train the denoiser on the autoencoder's latents to predict the noise."""
    torch.manual_seed(0)
    device = pick_device()
    tokenizer = word_tokenizer()
    latents = encode(vae, part) * vae.config["scaling_factor"]
    labels = torch.from_numpy(part.labels)
    tokens = tokenize(tokenizer, prompts()).to(device)
    schedule = DDPMScheduler(**BETAS)
    model = Denoiser(tokenizer).to(device)

    def loss(draw: torch.Generator) -> Tensor:
        index = torch.randint(len(latents), (UNET_BATCH,), generator=draw)
        timestep = torch.randint(1000, (UNET_BATCH,), generator=draw)
        noise = torch.randn((UNET_BATCH, *latents.shape[1:]), generator=draw)
        row = prompt_rows(labels[index], draw).to(device)
        noisy = schedule.add_noise(latents[index], noise, timestep).to(device)
        predicted = model(noisy, timestep.to(device), tokens, row)
        return mse_loss(predicted.float(), noise.to(device))

    trained = train(
        model, loss, name="unet", steps=steps, stop=stop, rate=UNET_RATE, ema=0.999, state=state
    )
    assert isinstance(trained, Denoiser)
    return trained


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return token ids (n, LENGTH), padded as in the pipeline."""
    return tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def save_generator(vae: AutoencoderKL, denoiser: Denoiser, folder: Path) -> None:
    """Save a Stable Diffusion folder in half precision, with its genie.json."""
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=denoiser.text_encoder.half(),
        tokenizer=word_tokenizer(),
        unet=denoiser.unet.half(),
        scheduler=DPMSolverMultistepScheduler(**BETAS, timestep_spacing="linspace"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    settings = {
        "guidance_scale": GUIDANCE,
        "steps": STEPS,
        "size": 32,
        "classes": known_names(),
        "license": "MIT",
    }
    (folder / "genie.json").write_text(json.dumps(settings, indent=2) + "\n")


def known_names() -> list[str]:
    """Return the class names and, of names with a slash, the words between which it stands."""
    return list(dict.fromkeys(word for name in CLASSES for word in (name, *name.split("/"))))


def _sample(images: Tensor, size: int, draw: torch.Generator) -> Tensor:
    return images[torch.randint(len(images), (size,), generator=draw)]
