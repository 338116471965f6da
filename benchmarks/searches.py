"""Cheaper ways to compare GeNIe-Ada's levels: what each costs, how often it chooses as in full.

    dvc repro && python -m benchmarks.searches

On every second pair of `data/augmented/`, against all levels rendered in full by the embedded
generator's 20 steps. Each way samples by itself, with the library's denoiser and codec, so that
what did not win needs no place in the library. Out: benchmarks/searches.csv.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from tqdm import tqdm

from benchmarks.preview import BACKBONE, RATIOS, Pair, agreement, default_pairs
from genie.adaptive import positions
from genie.backbones import embed, load_backbone
from genie.generator import Generator, encode_images, load_generator
from genie.noise import denoising_steps, initial_noise
from genie.records import decode_png

FULL_STEPS = 20
BATCH = 32
COLUMNS = ("way", "search_steps", "same", "within_one_level", "guided_steps", "times_fixed")


@dataclass(frozen=True)
class Way:
    """How the images are made that levels are compared by.

    `steps` from r to a clean image: k of N for an N, or so many at every level. `guided` says of a
    step, by its place (from 0) and the number of steps, whether it takes the unconditional half
    too ("both"), goes without guidance ("none"), or with the last guidance ("last"). `stop` takes
    the predicted clean latent after so many steps. `size` of the image in pixels, None the model's.
    """

    steps: Callable[[float], int]
    guided: Callable[[int, int], str] = lambda i, count: "both"
    solver: type = DPMSolverMultistepScheduler
    order: int = 2
    stop: int | None = None
    size: int | None = None


def of(total: int) -> Callable[[float], int]:
    """k of `total` steps."""
    return lambda r: denoising_steps(r, total)


def every(count: int) -> Callable[[float], int]:
    """The same number at all levels."""
    return lambda r: count


def pattern(marks: str) -> Callable[[int, int], str]:
    """Guidance by step: b both, n none, l last."""
    names = {"b": "both", "n": "none", "l": "last"}
    return lambda i, count: names[marks[i]]


FULL = Way(of(FULL_STEPS))
WAYS = {
    "10 steps": Way(of(10)),
    "8 steps": Way(of(8)),
    "6 steps": Way(of(6)),
    "4 of every level": Way(every(4)),
    "5 of every level": Way(every(5)),
    "4 of every level, first order": Way(every(4), order=1),
    "4 of every level, UniPC": Way(every(4), solver=UniPCMultistepScheduler),
    "4 of every level, guided in the first half": Way(every(4), pattern("bbnn")),
    "5 of every level, guided in the first three": Way(every(5), pattern("bbbnn")),
    "4 of every level, guidance kept every second step": Way(every(4), pattern("blbl")),
    "6 of every level, guidance kept every second step": Way(every(6), pattern("blblbl")),
    "predicted clean latent after 3 of the full steps": Way(of(FULL_STEPS), stop=3),
    "predicted clean latent after 5 of the full steps": Way(of(FULL_STEPS), stop=5),
    "10 steps at half the size": Way(of(10), size=16),
}


def bisected(walks: np.ndarray) -> np.ndarray:
    """Walks (pairs, 5) in which only the half with the larger change moves.

    Bisection looks at the lowest, middle and highest level, then at the middle of that half.
    """
    low = np.abs(walks[:, 2] - walks[:, 0]) >= np.abs(walks[:, 4] - walks[:, 2])
    still = np.where(
        low[:, None], [False, False, False, True, True], [True, True, False, False, False]
    )
    return np.where(still, walks[:, [2]], walks)


@torch.inference_mode()
def walk(
    way: Way, pairs: Sequence[Pair], sources: Mapping[str, bytes], generator: Generator
) -> tuple[np.ndarray, float]:
    """Positions (pairs, M) of the levels, and guided steps per pair."""
    sized = generator if way.size is None else replace(generator, size=way.size)
    names = sorted({str(pair.request.source_id) for pair in pairs})
    pictures = [decode_png(sources[name]) for name in names]
    encoded = [encode_images(pictures[i : i + 8], sized) for i in range(0, len(names), 8)]
    clean_of = dict(zip(names, torch.cat(encoded), strict=True))
    backbone = load_backbone(BACKBONE)
    found, calls = np.zeros((len(pairs), len(RATIOS))), 0
    for level, r in enumerate(RATIOS):
        images = []
        for start in range(0, len(pairs), BATCH):
            part = list(pairs[start : start + BATCH])
            padded = part + [part[-1]] * (BATCH - len(part))
            latents, halves = sample(way, r, padded, clean_of, sized)
            calls += halves * len(part)
            images += decode(latents, sized)[: len(part)]
        z = embed([image.resize((generator.size,) * 2) for image in images], model=backbone)
        for i, pair in enumerate(pairs):
            found[i, level] = positions(z[i : i + 1], pair.z_source, pair.z_target)[0]
    return found, calls / 2 / len(pairs)


def sample(
    way: Way,
    r: float,
    pairs: Sequence[Pair],
    clean_of: Mapping[str, torch.Tensor],
    generator: Generator,
) -> tuple[torch.Tensor, int]:
    """Denoised latents of the pairs at r, and how often the denoiser was called per image."""
    assert generator.denoiser is not None
    scheduler = way.solver.from_config(generator.pipeline.scheduler.config, solver_order=way.order)
    count = way.steps(r)
    start = r * (scheduler.config.num_train_timesteps - 1)
    timesteps = np.linspace(0, start, count + 1).round()[:0:-1].astype(int)
    alphas = scheduler.alphas_cumprod
    scheduler.timesteps = torch.tensor(timesteps)
    sigmas = ((1 - alphas) / alphas).sqrt()[scheduler.timesteps]
    scheduler.sigmas = torch.cat([sigmas, torch.zeros(1)])
    scheduler.num_inference_steps = count
    scheduler.model_outputs = [None] * way.order
    scheduler.lower_order_nums = 0
    clean = torch.stack([clean_of[str(pair.request.source_id)] for pair in pairs])
    noise = torch.stack([initial_noise(pair.request, tuple(clean.shape[1:])) for pair in pairs])
    at = alphas[timesteps[0]]
    latents = at.sqrt() * clean + (1 - at).sqrt() * noise
    prompts = torch.stack([prompt_of(generator, pair.request.prompt) for pair in pairs])
    nothing = torch.stack([prompt_of(generator, "")] * len(pairs))
    halves, guidance = 0, torch.zeros_like(latents)
    for i, t in enumerate(timesteps):
        mode = way.guided(i, count)
        both = mode == "both"
        given = torch.cat([latents, latents]) if both else latents
        context = torch.cat([nothing, prompts]) if both else prompts
        predicted = generator.denoiser(given, torch.full((len(given),), int(t)), context)
        if both:
            negative, predicted = predicted.chunk(2)
            guidance = predicted - negative
        halves += 1 + both
        if mode != "none":
            predicted = predicted + (generator.guidance_scale - 1) * guidance
        if way.stop == i + 1:
            at = alphas[t]
            return (latents - (1 - at).sqrt() * predicted) / at.sqrt(), halves
        latents = scheduler.step(predicted, t, latents, return_dict=False)[0]
    return latents, halves


_prompts: dict[str, torch.Tensor] = {}


def prompt_of(generator: Generator, text: str) -> torch.Tensor:
    """(tokens, d), encoded once."""
    if text not in _prompts:
        encode = generator.pipeline.encode_prompt
        _prompts[text] = encode(text, generator.device, 1, do_classifier_free_guidance=False)[0][0]
    return _prompts[text]


def decode(latents: torch.Tensor, generator: Generator) -> list:
    """PIL images of latents (B, 4, h, w)."""
    vae, images = generator.pipeline.vae, []
    for part in (latents / vae.config.scaling_factor).split(8):
        (pixels,) = vae.decode(
            part.contiguous(memory_format=torch.channels_last), return_dict=False
        )
        images += generator.pipeline.image_processor.postprocess(pixels, output_type="pil")
    return images


@click.command(help=__doc__)
@click.option("--out", type=Path, default=Path("benchmarks/searches.csv"), show_default=True)
def main(out: Path) -> None:
    pairs, sources = default_pairs()
    pairs = pairs[::2]
    generator = load_generator(Path("zoo/generator"))
    exact, _ = walk(FULL, pairs, sources, generator)
    rows = []

    def compare(name: str, found: np.ndarray, cost: float) -> None:
        row = agreement(found, exact, cost=cost, full_steps=FULL_STEPS, unclear=1)
        rows.append({"way": name, "search_steps": round(cost, 1)} | row)

    for name, way in tqdm(WAYS.items()):
        found, cost = walk(way, pairs, sources, generator)
        compare(name, found, cost)
        if name in ("10 steps", "5 of every level"):
            compare(f"{name}, bisected", bisected(found), 0.8 * cost)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.to_csv(out, index=False, lineterminator="\n")
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
