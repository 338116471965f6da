"""How often the level chosen by quick previews is the one that the exact search chooses.

    dvc repro && python -m benchmarks.preview

Renders the levels of all pairs of `data/augmented/` in full (50 steps) and by several kinds of
previews, chooses by both, and compares. Out: benchmarks/preview.csv, a row per kind and per bound
below which a pair's choice is settled by full renderings (1: never).
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from genie.adaptive import finalists, largest_shift, positions, settled, shift_ratio
from genie.backbones import ImageModel, embed, load_backbone
from genie.generator import Generator, load_generator, render, request_key
from genie.noise import denoising_steps, levels
from genie.prompts import prompt_for
from genie.records import TASK_COLUMNS, Request, decode_png, read_images, read_table
from genie.store import ensure, store_path
from stages.common import store_folder
from stages.params import read_yaml

COLUMNS = (
    *("preview", "unclear", "pairs", "settled_in_full", "same", "within_one_level"),
    *("guided_steps", "exact_steps"),
)
FULL_STEPS = 50
PAIR = ["task", "target_label", "source_id", "replicate"]


@dataclass(frozen=True)
class Preview:
    """How levels are previewed; `cost` is of a step, as a share of a guided one in full size."""

    steps: int
    guidance_scale: float | None = None
    size: int | None = None
    cost: float = 1.0


PREVIEWS = {
    "10 steps": Preview(10),
    "20 steps": Preview(20),
    "15 steps, whose levels do not coincide": Preview(15),
    "10 steps without guidance": Preview(10, guidance_scale=1.0, cost=0.5),
    "10 steps at half the size": Preview(10, size=16, cost=0.25),
}


@dataclass(frozen=True)
class Pairs:
    """The requests of all levels (`table`, a row each) and what their images are compared with."""

    table: pd.DataFrame
    requests: list[Request]
    generator: Generator
    backbone: ImageModel
    sources: dict[str, bytes]
    z_real: dict[str, np.ndarray]
    support: pd.DataFrame


def load_pairs() -> Pairs:
    """The pairs of the default's augmentation set."""
    table = pd.read_parquet("data/augmented/trajectories.parquet")
    images = read_images(Path("data/prepared/support"))
    tasks = read_table(Path("data/prepared/tasks.csv"), columns=TASK_COLUMNS)
    backbone = load_backbone(Path("zoo/backbone"))
    real = embed([decode_png(png) for png in images["png"]], model=backbone)
    requests = [
        Request(row.source_id, row.source_label, row.target_label, prompt_for(row.target_label),
                "", row.r, int(row.replicate), 0)
        for row in table.itertuples()
    ]  # fmt: skip
    return Pairs(
        table=table,
        requests=requests,
        generator=load_generator(Path("zoo/generator")),
        backbone=backbone,
        sources=dict(zip(images["image_id"], images["png"], strict=True)),
        z_real=dict(zip(images["image_id"], real, strict=True)),
        support=tasks[tasks["role"] == "support"],
    )


def walks(pairs: Pairs, preview: Preview) -> list[np.ndarray]:
    """Positions (M,) of every pair's levels, rendered as `preview` says."""
    generator = replace(pairs.generator, size=preview.size or pairs.generator.size)
    guidance = preview.guidance_scale or generator.guidance_scale
    store = store_folder(Path.cwd())
    key_of = partial(request_key, generator=generator, steps=preview.steps, guidance_scale=guidance)

    def draw(missing: Sequence[Request]) -> Iterable[tuple[Request, Image.Image]]:
        drawn = render(
            missing, generator, sources=pairs.sources, steps=preview.steps, guidance_scale=guidance
        )
        return tqdm(drawn, total=len(missing))

    ensure(list(dict.fromkeys(pairs.requests)), root=store, key_of=key_of, render=draw)
    pictures = [decode_png(store_path(store, key_of(q)).read_bytes()) for q in pairs.requests]
    z = pd.Series(list(embed(pictures, model=pairs.backbone)), index=pairs.table.index)
    found = []
    for (task, target, source, _), rows in pairs.table.groupby(PAIR):
        own = pairs.support[(pairs.support["task"] == task) & (pairs.support["label"] == target)]
        z_target = np.mean([pairs.z_real[i] for i in own["image_id"]], 0)
        z_levels = np.stack(list(z[rows.sort_values("level").index]))
        found.append(positions(z_levels, pairs.z_real[source], z_target))
    return found


def agreement(
    previews: Sequence[np.ndarray], fulls: Sequence[np.ndarray], preview: Preview, *, unclear: float
) -> dict[str, float]:
    """How often both choose the same level, and guided steps per pair."""
    noise = read_yaml(Path("params.yaml"))["noise"]
    ratios = levels(noise["low"], noise["high"], noise["M"])
    full_steps = np.array([denoising_steps(r, FULL_STEPS) for r in ratios])
    gaps, rendered, unsure = [], [], 0
    for quick, full in zip(previews, fulls, strict=True):
        in_full = [largest_shift(quick)]
        chosen = in_full[0]
        if shift_ratio(quick) < unclear:
            unsure += 1
            in_full = finalists(quick)
            known = np.full(len(full), np.nan)
            known[in_full] = full[in_full]
            chosen = settled(known)
        gaps.append(abs(chosen - largest_shift(full)))
        rendered.append(full_steps[in_full].sum())
    quick_steps = preview.cost * sum(denoising_steps(r, preview.steps) for r in ratios)
    return {
        "unclear": unclear,
        "pairs": len(fulls),
        "settled_in_full": round(unsure / len(fulls), 4),
        "same": round(float(np.mean(np.array(gaps) == 0)), 4),
        "within_one_level": round(float(np.mean(np.array(gaps) <= 1)), 4),
        "guided_steps": round(quick_steps + float(np.mean(rendered)), 1),
        "exact_steps": int(full_steps.sum()),
    }


@click.command(help=__doc__)
@click.option("--unclear", multiple=True, type=float, default=(1, 1.05, 1.1, 1.2, 1.5))
def main(unclear: tuple[float, ...]) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    pairs = load_pairs()
    fulls = walks(pairs, Preview(FULL_STEPS))
    rows = []
    for name, preview in PREVIEWS.items():
        previews = walks(pairs, preview)
        for bound in unclear:
            rows.append({"preview": name, **agreement(previews, fulls, preview, unclear=bound)})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.to_csv("benchmarks/preview.csv", index=False, lineterminator="\n")
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
