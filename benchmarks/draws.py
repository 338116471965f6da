"""Seed variance of "r = 0.8 minus Txt2Img", with per-task and with shared noise.

    python -m benchmarks.draws

One-shot tasks drawn from the support pool alone (`benchmarks.rules`) are fixed, and the noise of
all images is drawn ten times: once with noise that depends on the task (as the pipeline draws it),
once with noise that all tasks share. An interval over tasks should contain the differences of
other draws.
Out: benchmarks/draws.csv, a row per kind of noise and draw, with Student's t intervals over tasks,
and benchmarks/draws-spread.csv, a row per kind of noise: the spread of the difference over draws,
and the one that the intervals over tasks imply.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import pandas as pd
from scipy import stats

from benchmarks.rules import POOL, SETTINGS, Trial, accuracy, run_trial
from genie.classify.backbone import ImageModel, embed
from genie.cli.places import work_folder
from genie.core.tables import Schema, read_images, write_table
from genie.measure.metrics import interval
from genie.pipeline import from_params, planned_slots, read_tasks
from genie.plan.requests import Request, Slot, distinct
from genie.progress import bar
from genie.render.loop import Renderer
from genie.settings import augmentation, read_params

DRAWS: Schema = {
    "noise": str,
    "draw": int,
    "difference": float,
    "low": float,
    "high": float,
    "n": int,
    "images": int,
}
SPREAD: Schema = {
    "noise": str,
    "lowest": float,
    "highest": float,
    "deviation": float,
    "half_interval": float,
    "implied_deviation": float,
    "leave_out_0": int,
    "draws": int,
}
FIXED = 0.8
ROWS = {"genie": FIXED, "txt2img": 1.0}


def noise_of(slots: Sequence[Slot], draw: int, *, shared: bool) -> list[Slot]:
    """Return the same slots with another draw of noise, one for all tasks if `shared`."""

    def redrawn(request: Request) -> Request:
        return replace(request, seed=draw, support_id="" if shared else request.support_id)

    return [Slot(slot.task, tuple(map(redrawn, slot.levels))) for slot in slots]


def accuracies(
    slots: Sequence[Slot], renderer: Renderer, trial: Trial, backbone: ImageModel
) -> pd.Series:
    """Return the accuracy of each task with these images."""
    steps = renderer.engine.info.steps
    renderer.ensure(distinct(slots), steps=steps)
    found = {}
    for task, rows in trial.tasks.groupby("task"):
        own = [slot.levels[0] for slot in slots if slot.task == task]
        support, queries = (
            give(rows.loc[rows["role"] == role, "image_id"])
            for role, give in (("support", trial.support), ("query", trial.queries))
        )
        images = [renderer.store.image(renderer.key(q, steps)) for q in own]
        z = embed(images, model=backbone)
        found[task] = accuracy(z, [q.target_label for q in own], support, queries)
    return pd.Series(found)


def spread(table: pd.DataFrame) -> pd.DataFrame:
    """Return the spread of the difference over draws, by kind of noise (schema SPREAD)."""
    rows = []
    for noise, own in table.groupby("noise"):
        half = (own["high"] - own["low"]).mean() / 2
        rows.append(
            {
                "noise": noise,
                "lowest": own["difference"].min(),
                "highest": own["difference"].max(),
                "deviation": own["difference"].std(),
                "half_interval": half,
                "implied_deviation": half / stats.t.ppf(0.975, own["n"].iloc[0] - 1),
                "leave_out_0": int(((own["low"] > 0) | (own["high"] < 0)).sum()),
                "draws": len(own),
            }
        )
    return pd.DataFrame(rows).round(6)


@click.command(help=__doc__)
@click.option("--draws", type=int, default=10, show_default=True)
@click.option("--tasks", type=int, default=20, show_default=True)
@click.option("--seed", type=int, default=103, show_default=True, help="of the support sets")
@click.option("--params", "params_file", type=Path, default="params.yaml", show_default=True)
@click.option("--place", type=Path, default=".genie/draws", show_default=True)
@click.option("--out", type=Path, default="benchmarks/draws.csv", show_default=True)
def main(draws: int, tasks: int, seed: int, params_file: Path, place: Path, out: Path) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    changes = {**SETTINGS["1-shot, 5-way"], "data.path": POOL, "data.tasks": tasks, "seed": seed}
    trial = run_trial({**changes, "method": "none"}, place, params_file)
    params = read_params(place / "params.yaml")
    images = read_images(place / "data/prepared/support")
    pipe = from_params(params, work_folder(place))
    assert pipe.embedder is not None
    sources = dict(zip(images["image_id"], images["png"], strict=True))
    renderer = Renderer(pipe.engine, pipe.store, sources, bar)
    settings, drawn_tasks = augmentation(params), read_tasks(place)
    planned = {
        method: planned_slots(drawn_tasks, replace(settings, method=method, r=ratio))
        for method, ratio in ROWS.items()
    }
    rows: list[dict[str, object]] = []
    for draw in range(draws):
        for shared in (False, True):
            drawn = {m: noise_of(slots, draw, shared=shared) for m, slots in planned.items()}
            scores = {
                m: accuracies(slots, renderer, trial, pipe.embedder) for m, slots in drawn.items()
            }
            gap = interval(scores["genie"] - scores["txt2img"])
            rows.append(
                {
                    "noise": "one for all tasks" if shared else "of each task",
                    "draw": draw,
                    "difference": gap.mean,
                    "low": gap.low,
                    "high": gap.high,
                    "n": gap.n,
                    "images": sum(len(distinct(slots)) for slots in drawn.values()),
                }
            )
    table = pd.DataFrame(rows).sort_values(["noise", "draw"])
    write_table(table, out, DRAWS)
    click.echo(table.to_string(index=False))
    write_table(spread(table), out.with_name("draws-spread.csv"), SPREAD)
    click.echo(spread(table).to_string(index=False))


if __name__ == "__main__":
    main()
