"""How often the level chosen by quick previews is the one that the exact search chooses.

    dvc repro && python -m benchmarks.preview

Takes the pairs of `data/augmented/` (exact search), renders their levels with few steps, chooses
again, and compares. Out: benchmarks/preview.csv, a row per number of preview steps.
"""

import os
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
from tqdm import tqdm

from genie.adaptive import largest_shift, positions
from genie.backbones import embed, load_backbone
from genie.generator import load_generator, render, request_key
from genie.noise import denoising_steps
from genie.prompts import prompt_for
from genie.records import TASK_COLUMNS, Request, decode_png, read_images, read_table
from genie.store import ensure, store_path
from stages.common import store_folder

COLUMNS = ("preview_steps", "pairs", "same", "within_one_level", "guided_steps", "exact_steps")


def compare(preview_steps: int, *, full_steps: int = 50) -> dict[str, float]:
    """Agreement of r* over the pairs of the augmentation set, and guided steps per pair."""
    table = pd.read_parquet("data/augmented/trajectories.parquet")
    keys = ["task", "target_label", "source_id", "replicate"]
    generator = load_generator(Path("zoo/generator"))
    images = read_images(Path("data/prepared/support"))
    tasks = read_table(Path("data/prepared/tasks.csv"), columns=TASK_COLUMNS)
    backbone = load_backbone(Path("zoo/backbone"))
    z_real = dict(
        zip(
            images["image_id"],
            embed([decode_png(p) for p in images["png"]], model=backbone),
            strict=True,
        )
    )
    requests = [
        Request(row.source_id, row.source_label, row.target_label, prompt_for(row.target_label),
                "", row.r, int(row.replicate), 0)
        for row in table.itertuples()
    ]  # fmt: skip
    key_of = partial(
        request_key,
        generator=generator,
        steps=preview_steps,
        guidance_scale=generator.guidance_scale,
    )
    store = store_folder(Path.cwd())
    draw = partial(
        render,
        generator=generator,
        sources=dict(zip(images["image_id"], images["png"], strict=True)),
        steps=preview_steps,
    )
    ensure(
        list(dict.fromkeys(requests)),
        root=store,
        key_of=key_of,
        render=lambda missing: tqdm(draw(missing), total=len(missing), desc="previews"),
    )
    pictures = [decode_png(store_path(store, key_of(q)).read_bytes()) for q in requests]
    table = table.assign(preview=list(embed(pictures, model=backbone)))
    support = tasks[tasks["role"] == "support"]
    gaps = []
    for (task, target, source, _), rows in table.groupby(keys):
        own = support[(support["task"] == task) & (support["label"] == target)]
        z_target = np.mean([z_real[i] for i in own["image_id"]], 0)
        rows = rows.sort_values("level")
        found = largest_shift(positions(np.stack(list(rows["preview"])), z_real[source], z_target))
        gaps.append(abs(found - int(rows["chosen"].to_numpy().argmax())))
    ratios = sorted(table["r"].unique())
    chosen = table[table["chosen"]]["r"]
    full = [denoising_steps(r, full_steps) for r in chosen]
    return {
        "preview_steps": preview_steps,
        "pairs": len(gaps),
        "same": round(float(np.mean(np.array(gaps) == 0)), 4),
        "within_one_level": round(float(np.mean(np.array(gaps) <= 1)), 4),
        "guided_steps": sum(denoising_steps(r, preview_steps) for r in ratios) + np.mean(full),
        "exact_steps": sum(denoising_steps(r, full_steps) for r in ratios),
    }


@click.command(help=__doc__)
@click.option("--steps", multiple=True, type=int, default=(10, 20), show_default=True)
def main(steps: tuple[int, ...]) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    table = pd.DataFrame([compare(n) for n in steps])
    table.to_csv("benchmarks/preview.csv", index=False, columns=list(COLUMNS), lineterminator="\n")
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
