"""How often the level chosen by quick previews is the one that the exact search chooses.

    dvc repro && python -m benchmarks.preview

Renders the levels of all pairs of `data/augmented/` in full and with few steps, chooses by both,
and compares. Out: benchmarks/preview.csv, a row per number of preview steps and per bound below
which a pair's choice is settled by full renderings (1: never).
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
from tqdm import tqdm

from genie.adaptive import finalists, largest_shift, positions, settled, shift_ratio
from genie.backbones import embed, load_backbone
from genie.generator import load_generator, render, request_key
from genie.noise import denoising_steps, levels
from genie.prompts import prompt_for
from genie.records import TASK_COLUMNS, Request, decode_png, read_images, read_table
from genie.store import ensure, store_path
from stages.common import store_folder
from stages.params import read_yaml

COLUMNS = (
    *("preview_steps", "unclear", "pairs", "settled_in_full", "same", "within_one_level"),
    *("guided_steps", "exact_steps"),
)
FULL_STEPS = 50
PAIR = ["task", "target_label", "source_id", "replicate"]


def walks(preview_steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions (M,) of every pair's levels, by previews and in full."""
    table = pd.read_parquet("data/augmented/trajectories.parquet")
    generator = load_generator(Path("zoo/generator"))
    images = read_images(Path("data/prepared/support"))
    tasks = read_table(Path("data/prepared/tasks.csv"), columns=TASK_COLUMNS)
    backbone = load_backbone(Path("zoo/backbone"))
    real = embed([decode_png(png) for png in images["png"]], model=backbone)
    z_real = dict(zip(images["image_id"], real, strict=True))
    requests = [
        Request(row.source_id, row.source_label, row.target_label, prompt_for(row.target_label),
                "", row.r, int(row.replicate), 0)
        for row in table.itertuples()
    ]  # fmt: skip
    store = store_folder(Path.cwd())
    png_of = dict(zip(images["image_id"], images["png"], strict=True))
    for steps in (preview_steps, FULL_STEPS):
        key_of = partial(
            request_key,
            generator=generator,
            steps=steps,
            guidance_scale=generator.guidance_scale,
        )
        draw = partial(render, generator=generator, sources=png_of, steps=steps)
        ensure(
            list(dict.fromkeys(requests)),
            root=store,
            key_of=key_of,
            render=lambda missing, draw=draw: tqdm(draw(missing), total=len(missing)),
        )
        pictures = [decode_png(store_path(store, key_of(q)).read_bytes()) for q in requests]
        table[f"z{steps}"] = pd.Series(list(embed(pictures, model=backbone)), index=table.index)
    support = tasks[tasks["role"] == "support"]
    found = []
    for (task, target, source, _), rows in table.groupby(PAIR):
        own = support[(support["task"] == task) & (support["label"] == target)]
        z_target = np.mean([z_real[i] for i in own["image_id"]], 0)
        rows = rows.sort_values("level")
        preview, full = (
            positions(np.stack(list(rows[f"z{steps}"])), z_real[source], z_target)
            for steps in (preview_steps, FULL_STEPS)
        )
        found.append((preview, full))
    return found


def agreement(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, preview_steps: int, unclear: float
) -> dict[str, float]:
    """How often both choose the same level, and guided steps per pair."""
    noise = read_yaml(Path("params.yaml"))["noise"]
    ratios = levels(noise["low"], noise["high"], noise["M"])
    full_steps = np.array([denoising_steps(r, FULL_STEPS) for r in ratios])
    gaps, rendered, unsure = [], [], 0
    for preview, full in pairs:
        in_full = [largest_shift(preview)]
        chosen = in_full[0]
        if shift_ratio(preview) < unclear:
            unsure += 1
            in_full = finalists(preview)
            known = np.full(len(full), np.nan)
            known[in_full] = full[in_full]
            chosen = settled(known)
        gaps.append(abs(chosen - largest_shift(full)))
        rendered.append(full_steps[in_full].sum())
    previews = sum(denoising_steps(r, preview_steps) for r in ratios)
    return {
        "preview_steps": preview_steps,
        "unclear": unclear,
        "pairs": len(pairs),
        "settled_in_full": round(unsure / len(pairs), 4),
        "same": round(float(np.mean(np.array(gaps) == 0)), 4),
        "within_one_level": round(float(np.mean(np.array(gaps) <= 1)), 4),
        "guided_steps": round(previews + float(np.mean(rendered)), 1),
        "exact_steps": int(full_steps.sum()),
    }


@click.command(help=__doc__)
@click.option("--steps", type=int, default=10, show_default=True)
@click.option("--unclear", multiple=True, type=float, default=(1, 1.05, 1.1, 1.2, 1.5))
def main(steps: int, unclear: tuple[float, ...]) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    pairs = walks(steps)
    table = pd.DataFrame([agreement(pairs, preview_steps=steps, unclear=u) for u in unclear])
    table.to_csv("benchmarks/preview.csv", index=False, columns=list(COLUMNS), lineterminator="\n")
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
