"""Cheaper ways to compare GeNIe-Ada's levels: what each costs, how often it chooses as in full.

    dvc repro && python -m benchmarks.searches

On every second pair of `data/augmented/`, against all levels rendered in full by the embedded
generator's 20 steps. Each way samples by itself, with the library's denoiser and codec, so that
what did not win needs no place in the library. Out: benchmarks/searches.csv.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from PIL import Image
from tqdm import tqdm

from benchmarks.preview import GENERATOR, RATIOS, Pairs, agreement, pairs_of_set
from genie.choose.adaptive import axis_positions, largest_shift
from genie.classify.backbone import embed
from genie.core.tables import Schema, write_table
from genie.data.images import decode_image
from genie.plan.levels import denoising_steps
from genie.plan.requests import Request
from genie.render.model import Generator, encode_images, load_generator
from genie.render.noise import initial_noise

FULL_STEPS = 20
BATCH = 32
WAYS_TABLE: Schema = {
    "way": str,
    "search_steps": float,
    "same": float,
    "within_one_level": float,
    "guided_steps": float,
    "times_fixed": float,
}
Prompts = Mapping[str, torch.Tensor]
"""Embeddings (tokens, d) by prompt."""


@dataclass(frozen=True)
class Way:
    """How the images that levels are compared by are made.

    `steps` returns the number of steps from r to a clean image. `guided` maps the place of a step
    (from 0) and the number of steps to its guidance: "both" computes the unconditional half too,
    "none" has no guidance, and "last" repeats the guidance of an earlier step. `stop` takes the
    predicted clean latent after so many steps. `size` is that of the image in pixels, None the
    model's.
    """

    steps: Callable[[float], int]
    guided: Callable[[int, int], str] = lambda i, count: "both"
    solver: Any = DPMSolverMultistepScheduler
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
def walk(way: Way, pairs: Pairs, generator: Generator) -> tuple[np.ndarray, float]:
    """Positions (pairs, M) of the levels, and guided steps per pair."""
    info = generator.info
    sized = replace(generator, info=replace(info, size=way.size or info.size))
    clean_of = encoded_sources(pairs, sized)
    prompts = encoded_prompts(pairs, sized)
    count = len(pairs.slots)
    size = min(BATCH, count)
    found, calls = np.zeros((count, len(RATIOS))), 0
    for level, r in enumerate(RATIOS):
        requests = [slot.levels[level] for slot in pairs.slots]
        images = []
        for start in range(0, count, size):
            part = requests[start : start + size]
            padded = part + [part[-1]] * (size - len(part))
            latents, halves = sample(way, r, padded, clean_of, prompts, sized)
            calls += halves * len(part)
            images += decode(latents, sized)[: len(part)]
        found[:, level] = places(images, pairs, info.size)
    return found, calls / 2 / count


def encoded_sources(pairs: Pairs, generator: Generator) -> dict[str, torch.Tensor]:
    """Clean latents (4, h, w) of the source images, by image_id."""
    names = sorted({str(slot.levels[0].source_id) for slot in pairs.slots})
    pictures = [decode_image(pairs.sources[name]) for name in names]
    encoded = [encode_images(pictures[i : i + 8], generator) for i in range(0, len(names), 8)]
    return dict(zip(names, torch.cat(encoded), strict=True))


def encoded_prompts(pairs: Pairs, generator: Generator) -> Prompts:
    """Embeddings of the pairs' prompts and of the empty one."""
    texts = {"", *(slot.levels[0].prompt for slot in pairs.slots)}
    encode, device = generator.pipeline.encode_prompt, generator.info.device
    return {
        text: encode(text, device, 1, do_classifier_free_guidance=False)[0][0]
        for text in sorted(texts)
    }


def places(images: Sequence[Image.Image], pairs: Pairs, size: int) -> np.ndarray:
    """Positions (pairs,) of one image per pair, at the model's size."""
    landmarks = pairs.landmarks
    z = embed([image.resize((size, size)) for image in images], model=landmarks.backbone)
    found = []
    for vector, slot in zip(z, pairs.slots, strict=True):
        first = slot.levels[0]
        z_source = landmarks.sources[str(first.source_id)]
        z_target = landmarks.targets[slot.task, first.target_label]
        found.append(axis_positions(vector[None], z_source, z_target)[0])
    return np.array(found)


def sample(
    way: Way,
    r: float,
    requests: Sequence[Request],
    clean_of: Mapping[str, torch.Tensor],
    encoded: Prompts,
    generator: Generator,
) -> tuple[torch.Tensor, int]:
    """Denoised latents of the requests from r, and how often the denoiser was called per image."""
    assert generator.denoiser is not None
    scheduler = scheduler_of(way, r, generator)
    alphas, timesteps = scheduler.alphas_cumprod, scheduler.timesteps.tolist()
    clean = torch.stack([clean_of[str(request.source_id)] for request in requests])
    noise = torch.stack([initial_noise(request, tuple(clean.shape[1:])) for request in requests])
    at = alphas[timesteps[0]]
    latents = at.sqrt() * clean + (1 - at).sqrt() * noise
    prompts = torch.stack([encoded[request.prompt] for request in requests])
    nothing = torch.stack([encoded[""]] * len(requests))
    halves, guidance = 0, torch.zeros_like(latents)
    for i, t in enumerate(timesteps):
        mode = way.guided(i, len(timesteps))
        both = mode == "both"
        given = torch.cat([latents, latents]) if both else latents
        context = torch.cat([nothing, prompts]) if both else prompts
        predicted = generator.denoiser(given, torch.full((len(given),), t), context)
        if both:
            negative, predicted = predicted.chunk(2)
            guidance = predicted - negative
        halves += 1 + both
        if mode != "none":
            predicted = predicted + (generator.info.guidance_scale - 1) * guidance
        if way.stop == i + 1:
            at = alphas[t]
            return (latents - (1 - at).sqrt() * predicted) / at.sqrt(), halves
        latents = scheduler.step(predicted, t, latents, return_dict=False)[0]
    return latents, halves


def scheduler_of(way: Way, r: float, generator: Generator) -> Any:
    """A solver of the way's kind, whose timesteps lead evenly from r to a clean image."""
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
    return scheduler


def decode(latents: torch.Tensor, generator: Generator) -> list[Image.Image]:
    """PIL images of latents (B, 4, h, w)."""
    vae, images = generator.pipeline.vae, []
    for part in (latents / vae.config.scaling_factor).split(8):
        (pixels,) = vae.decode(
            part.contiguous(memory_format=torch.channels_last), return_dict=False
        )
        images += generator.pipeline.image_processor.postprocess(pixels, output_type="pil")
    return images


def compare(name: str, found: np.ndarray, full: np.ndarray, *, cost: float) -> dict[str, object]:
    """A row of WAYS_TABLE: walks (pairs, M) of a way that took `cost` guided steps per pair.

    The level that the way chooses is then rendered in full.
    """
    quick = [largest_shift(walk) for walk in found]
    in_full = [denoising_steps(RATIOS[level], FULL_STEPS) for level in quick]
    exact = [largest_shift(walk) for walk in full]
    guided = cost + float(np.mean(in_full))
    return {
        "way": name,
        "search_steps": round(cost, 1),
        **agreement(quick, exact, guided=guided, full_steps=FULL_STEPS),
    }


@click.command(help=__doc__)
@click.option("--way", "names", multiple=True, type=click.Choice(list(WAYS)), help="Default: all.")
@click.option("--generator", "folder", type=Path, default=GENERATOR, show_default=True)
@click.option("--root", type=Path, default=".", show_default=True, help="where data/ is")
@click.option("--out", type=Path, default="benchmarks/searches.csv", show_default=True)
def main(names: tuple[str, ...], folder: Path, root: Path, out: Path) -> None:
    every = pairs_of_set(root)
    pairs = replace(every, slots=every.slots[::2])
    generator = load_generator(folder)
    full, _ = walk(FULL, pairs, generator)
    rows = []
    for name in tqdm(names or WAYS):
        found, cost = walk(WAYS[name], pairs, generator)
        rows.append(compare(name, found, full, cost=cost))
        if name in ("10 steps", "5 of every level"):
            rows.append(compare(f"{name}, bisected", bisected(found), full, cost=0.8 * cost))
    table = pd.DataFrame(rows)
    write_table(table, out, WAYS_TABLE)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
