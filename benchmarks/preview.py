"""How often the level chosen by quick previews is the one that the exact search chooses.

    dvc repro && python -m benchmarks.preview

Renders the levels of all pairs of `data/augmented/` in full, by the paper's 50 steps and by the
20 that the embedded generator asks for, and with few steps, chooses by both, and compares.
Out: benchmarks/preview.csv, a row per number of full steps, of preview steps, and per bound below
which a pair's choice is settled by full renderings (1: never). The last rows compare what bfloat16
chooses, in full by the fewest steps or by previews that nothing settles, with float32 in full.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from genie.adaptive import finalists, largest_shift, positions, settled, shift_ratio
from genie.backbones import embed, load_backbone
from genie.generator import load_generator
from genie.noise import denoising_steps, levels
from genie.prompts import prompt_for
from genie.records import TASK_COLUMNS, Request, decode_png, read_images, read_table
from genie.rendering import render, request_key
from genie.store import ensure, store_path
from stages.common import store_folder

COLUMNS = (
    *("dtype", "full_steps", "preview_steps", "unclear", "pairs", "settled_in_full", "same"),
    *("within_one_level", "guided_steps", "exact_steps", "times_fixed"),
)
RATIOS = levels(0.5, 0.9, 5)
FIXED = 0.8  # the ratio whose cost others are compared with
BACKBONE = Path("zoo/backbone")


@dataclass(frozen=True)
class Pair:
    """A source and a target of the default's augmentation set, and the axis between them."""

    request: Request  # at the lowest level
    z_source: np.ndarray
    z_target: np.ndarray


def default_pairs() -> tuple[list[Pair], dict[str, bytes]]:
    """All pairs of `data/augmented/`, and the source images."""
    table = pd.read_parquet("data/augmented/trajectories.parquet")
    table = table[table["level"] == 0]
    images = read_images(Path("data/prepared/support"))
    tasks = read_table(Path("data/prepared/tasks.csv"), columns=TASK_COLUMNS)
    real = embed([decode_png(png) for png in images["png"]], model=load_backbone(BACKBONE))
    z = dict(zip(images["image_id"], real, strict=True))
    support = tasks[tasks["role"] == "support"].groupby(["task", "label"])["image_id"]
    z_class = {names: np.mean([z[i] for i in own], 0) for names, own in support}
    pairs = [
        Pair(
            Request(row.source_id, row.source_label, row.target_label,
                    prompt_for(row.target_label), "", RATIOS[0], int(row.replicate), 0),
            z[row.source_id],
            z_class[row.task, row.target_label],
        )
        for row in table.itertuples()
    ]  # fmt: skip
    return pairs, dict(zip(images["image_id"], images["png"], strict=True))


def walks(
    pairs: Sequence[Pair], sources: dict[str, bytes], *, steps: int,
    dtype: torch.dtype = torch.float32,
) -> np.ndarray:  # fmt: skip
    """Positions (pairs, M) of all levels, rendered with `steps` unless the store has them."""
    generator = load_generator(Path("zoo/generator"), dtype=dtype)
    requests = [replace(pair.request, r=r) for pair, r in product(pairs, RATIOS)]
    store = store_folder(Path.cwd())
    key_of = partial(
        request_key, generator=generator, steps=steps, guidance_scale=generator.guidance_scale
    )
    draw = partial(render, generator=generator, sources=sources, steps=steps)
    ensure(
        list(dict.fromkeys(requests)),
        root=store,
        key_of=key_of,
        render=lambda missing: tqdm(draw(missing), total=len(missing), desc=f"{steps} steps"),
    )
    pictures = [decode_png(store_path(store, key_of(q)).read_bytes()) for q in requests]
    z = embed(pictures, model=load_backbone(BACKBONE)).reshape(len(pairs), len(RATIOS), -1)
    return np.stack(
        [positions(own, p.z_source, p.z_target) for own, p in zip(z, pairs, strict=True)]
    )


def agreement(
    previews: np.ndarray, full: np.ndarray, *, cost: float, full_steps: int, unclear: float
) -> dict[str, float]:
    """How often both choose the same level, and guided steps per pair.

    `previews` and `full` are positions (pairs, M); `cost` is that of a pair's previews.
    """
    steps = np.array([denoising_steps(r, full_steps) for r in RATIOS])
    gaps, rendered, unsure = [], [], 0
    for preview, exact in zip(previews, full, strict=True):
        in_full = [largest_shift(preview)]
        chosen = in_full[0]
        if shift_ratio(preview) < unclear:
            unsure += 1
            in_full = finalists(preview)
            known = np.full(len(exact), np.nan)
            known[in_full] = exact[in_full]
            chosen = settled(known)
        gaps.append(abs(chosen - largest_shift(exact)))
        rendered.append(steps[in_full].sum())
    guided = cost + float(np.mean(rendered))
    return {
        "full_steps": full_steps,
        "unclear": unclear,
        "pairs": len(full),
        "settled_in_full": round(unsure / len(full), 4),
        "same": round(float(np.mean(np.array(gaps) == 0)), 4),
        "within_one_level": round(float(np.mean(np.array(gaps) <= 1)), 4),
        "guided_steps": round(guided, 1),
        "exact_steps": int(steps.sum()),
        "times_fixed": round(guided / denoising_steps(FIXED, full_steps), 2),
    }


@click.command(help=__doc__)
@click.option("--full", multiple=True, type=int, default=(50, 20), show_default=True)
@click.option("--steps", multiple=True, type=int, default=(6, 8, 10), show_default=True)
@click.option("--unclear", multiple=True, type=float, default=(1, 1.05, 1.1, 1.2, 1.5))
def main(full: tuple[int, ...], steps: tuple[int, ...], unclear: tuple[float, ...]) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    pairs, sources = default_pairs()
    cases = [(many, few, bound, "float32") for many, few, bound in product(full, steps, unclear)]
    cases += [(full[-1], few, 1, "bfloat16") for few in (steps[-1], full[-1])]
    wanted = {(few, dtype) for _, few, _, dtype in cases} | {(many, "float32") for many in full}
    known = {
        (n, dtype): walks(pairs, sources, steps=n, dtype=getattr(torch, dtype))
        for n, dtype in sorted(wanted)
    }
    rows = []
    for many, few, bound, dtype in cases:
        cost = sum(denoising_steps(r, few) for r in RATIOS)
        row = agreement(
            known[few, dtype],
            known[many, "float32"],
            cost=cost,
            full_steps=many,
            unclear=bound,
        )
        if few == many:  # what was compared is there already
            row |= {"guided_steps": cost, "times_fixed": cost / denoising_steps(FIXED, many)}
        rows.append(row | {"preview_steps": few, "dtype": dtype})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.to_csv("benchmarks/preview.csv", index=False, lineterminator="\n")
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
