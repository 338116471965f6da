"""How far "r = 0.8 minus Txt2Img" moves with the draw of noise, shared by all tasks or not.

    python -m benchmarks.draws

One-shot tasks drawn from the support pool alone (`benchmarks.rules`) are fixed, and the noise of
all images is drawn ten times: once with noise that depends on the task (as the pipeline draws it),
once with noise that all tasks share. An interval over tasks should tell how far the difference
moves.
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
from genie.classify.backbone import embed, load_backbone
from genie.generate.methods import plan_tasks
from genie.generate.renderer import Renderer, load_renderer
from genie.generate.request import Request, Wanted, distinct
from genie.measure.metrics import interval
from genie.tables import SOURCES, Schema, read_images, read_table, write_table
from stages.shared.generation import wording_per_task
from stages.shared.params import read_params
from stages.shared.places import features_file, store_folder
from stages.shared.progress import bar
from stages.shared.settings import images_per_class

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


def noise_of(wanted: Sequence[Wanted], draw: int, *, shared: bool) -> list[Wanted]:
    """The same images from another draw of noise, one for all tasks if `shared`."""

    def again(request: Request) -> Request:
        return replace(request, seed=draw, support_id="" if shared else request.support_id)

    return [Wanted(one.task, tuple(map(again, one.candidates))) for one in wanted]


def accuracies(wanted: Sequence[Wanted], renderer: Renderer, trial: Trial, root: Path) -> pd.Series:
    """Accuracy of each task with these images."""
    renderer.ensure(distinct(wanted), steps=renderer.steps)
    backbone = load_backbone(Path("zoo/backbone"), cache=features_file(root))
    found = {}
    for task, rows in trial.tasks.groupby("task"):
        own = [one.candidates[0] for one in wanted if one.task == task]
        support, queries = (
            give(rows.loc[rows["role"] == role, "image_id"])
            for role, give in (("support", trial.support), ("query", trial.queries))
        )
        images = [renderer.picture(renderer.key(q, renderer.steps)) for q in own]
        z = embed(images, model=backbone)
        found[task] = accuracy(z, [q.target_label for q in own], support, queries)
    return pd.Series(found)


def spread(table: pd.DataFrame) -> pd.DataFrame:
    """How far the difference moves over draws, by kind of noise (schema SPREAD), from DRAWS."""
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
    renderer = load_renderer(
        params.generator.model,
        sources=dict(zip(images["image_id"], images["png"], strict=True)),
        store=store_folder(place),
        watch=lambda drawn, total: bar(drawn, total=total, label="render", unit="image"),
    )
    support = trial.tasks[trial.tasks["role"] == "support"]
    planned = {
        method: plan_tasks(
            method,
            support,
            read_table(place / "data/sources/sources.csv", SOURCES),
            ratios=(ratio,),
            per_class=lambda labels: images_per_class(params, labels),
            every_source=True,
            wording_of=wording_per_task(params, place, renderer, support),
            seed=seed,
        )
        for method, ratio in ROWS.items()
    }
    rows: list[dict[str, object]] = []
    for draw in range(draws):
        for shared in (False, True):
            drawn = {m: noise_of(wanted, draw, shared=shared) for m, wanted in planned.items()}
            scores = {m: accuracies(w, renderer, trial, place) for m, w in drawn.items()}
            gap = interval(scores["genie"] - scores["txt2img"])
            rows.append(
                {
                    "noise": "one for all tasks" if shared else "of each task",
                    "draw": draw,
                    "difference": gap.mean,
                    "low": gap.low,
                    "high": gap.high,
                    "n": gap.n,
                    "images": sum(len(distinct(w)) for w in drawn.values()),
                }
            )
    table = pd.DataFrame(rows).sort_values(["noise", "draw"])
    write_table(table, out, DRAWS)
    click.echo(table.to_string(index=False))
    write_table(spread(table), out.with_name("draws-spread.csv"), SPREAD)
    click.echo(spread(table).to_string(index=False))


if __name__ == "__main__":
    main()
