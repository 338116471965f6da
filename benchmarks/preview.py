"""How often previews choose the level that the exact search chooses.

    dvc repro && python -m benchmarks.preview

Searches on all pairs of `data/augmented/` in full, by the paper's 50 steps and by the 20 that the
embedded generator asks for, and by previews, and compares the chosen levels.
Out: benchmarks/preview.csv, a row per number of full steps, of preview steps, and per bound below
which a pair's choice is decided by full renderings (1: never). The last rows compare what bfloat16
chooses, in full by the fewest steps or by previews alone, with float32 in full.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import click
import numpy as np
import pandas as pd

from genie.choose.search import Landmarks, Trajectory, exact, landmarks_of, preview
from genie.classify.backbone import embed, load_backbone
from genie.cli.places import features_file, store_folder
from genie.core.tables import TASKS, TRAJECTORIES, Schema, read_images, read_table, write_table
from genie.data.images import decode_image
from genie.data.prompts import Prompts
from genie.plan.levels import Levels, denoising_steps
from genie.plan.methods import levels_of
from genie.plan.requests import Slot
from genie.plan.tasks import TaskSpec
from genie.progress import bar
from genie.render.engine import LocalEngine
from genie.render.loop import Renderer
from genie.render.model import Generator, load_generator
from genie.render.model_info import RenderSettings
from genie.render.store import DiskStore

AGREEMENT: Schema = {
    "dtype": str,
    "full_steps": int,
    "preview_steps": int,
    "unclear": float,
    "pairs": int,
    "settled_in_full": float,
    "same": float,
    "within_one_level": float,
    "guided_steps": float,
    "exact_steps": int,
    "times_fixed": float,
}
RATIOS = Levels(0.5, 0.9, 5).ratios
FIXED = 0.8  # the ratio whose cost others are compared with
BACKBONE = Path("zoo/backbone")
GENERATOR = Path("zoo/generator")

Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class Pairs:
    """Sources and targets with the axes between them, and source images."""

    slots: Sequence[Slot]
    landmarks: Landmarks
    sources: dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A cheap search, and the steps of the exact one that it is compared with."""

    full: int
    steps: int
    unclear: float = 1
    dtype: Dtype = "float32"


def pairs_of_set(root: Path) -> Pairs:
    """All pairs of `data/augmented/` under `root`."""
    table = read_table(root / "data/augmented/trajectories.parquet", TRAJECTORIES)
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", TASKS)
    backbone = load_backbone(BACKBONE, cache=features_file(root))
    real = embed([decode_image(png) for png in images["png"]], model=backbone)
    vectors = dict(zip(images["image_id"], real, strict=True))
    support = tasks[tasks["role"] == "support"]
    tasks_of = {int(task): task_of(rows) for task, rows in support.groupby("task")}
    slots = [
        Slot(
            row.task,
            levels_of(
                tasks_of[row.task], row.target_label, row.source_label, row.source_id, row.replicate
            ),
        )
        for row in table[table["level"] == 0].itertuples()
    ]
    landmarks = landmarks_of(support, vectors, backbone)
    return Pairs(slots, landmarks, dict(zip(images["image_id"], images["png"], strict=True)))


def task_of(support: pd.DataFrame) -> TaskSpec:
    """Return a task with these support images, all levels and the default prompt."""
    return TaskSpec(support, pd.DataFrame(), {}, RATIOS, Prompts(), seed=0)


def agreement(
    quick: Sequence[int], full: Sequence[int], *, guided: float, full_steps: int
) -> dict[str, float]:
    """Return how often two searches choose the same level, and guided steps per pair of `quick`."""
    gaps = np.abs(np.subtract(quick, full))
    return {
        "same": round(float(np.mean(gaps == 0)), 4),
        "within_one_level": round(float(np.mean(gaps <= 1)), 4),
        "guided_steps": round(guided, 1),
        "times_fixed": round(guided / denoising_steps(FIXED, full_steps), 2),
    }


def compare(
    case: Case, exactly: Sequence[Trajectory], renderer: Renderer, pairs: Pairs
) -> dict[str, object]:
    """Return a row of AGREEMENT: a cheap search against the trajectories of the exact one.

    The renderer's full steps are those of the case.
    """
    found, guided = search(case, renderer, pairs)
    return {
        "dtype": case.dtype,
        "full_steps": case.full,
        "preview_steps": case.steps,
        "unclear": case.unclear,
        "pairs": len(found),
        "settled_in_full": round(share([t.shift_ratio < case.unclear for t in found]), 4),
        "exact_steps": exact_cost(case.full),
        **agreement(chosen(found), chosen(exactly), guided=guided, full_steps=case.full),
    }


def search(case: Case, renderer: Renderer, pairs: Pairs) -> tuple[list[Trajectory], float]:
    """Return the trajectories of the case's search, and its guided steps per pair.

    As many steps as in full are an exact search, whose images need not be rendered again.
    """
    if case.steps == case.full:
        found, _ = exact(pairs.slots, renderer, pairs.landmarks)
        return found, exact_cost(case.full)
    found, _ = preview(
        pairs.slots, renderer, pairs.landmarks, steps=case.steps, unclear=case.unclear
    )
    in_full = [
        sum(
            denoising_steps(request.r, case.full)
            for request, steps in zip(trajectory.slot.levels, trajectory.steps, strict=True)
            if steps == case.full
        )
        for trajectory in found
    ]
    return found, exact_cost(case.steps) + float(np.mean(in_full))


def exact_cost(steps: int) -> int:
    """Return the guided steps of all levels of a pair."""
    return sum(denoising_steps(r, steps) for r in RATIOS)


def chosen(trajectories: Iterable[Trajectory]) -> list[int]:
    """Return the chosen level of each trajectory."""
    return [t.chosen for t in trajectories if t.chosen is not None]


def share(values: Sequence[bool]) -> float:
    """Return the share of values that are true, in [0, 1]."""
    return float(np.mean(values))


def cases_of(full: Sequence[int], steps: Sequence[int], unclear: Sequence[float]) -> list[Case]:
    """Return all cases in float32, then bfloat16 by previews and in full."""
    cases = [Case(n, few, bound) for n, few, bound in product(full, steps, unclear)]
    return cases + [Case(full[-1], few, dtype="bfloat16") for few in (steps[-1], full[-1])]


def with_steps(generator: Generator, steps: int) -> Generator:
    """Return the generator with another number of steps of a full rendering."""
    return replace(generator, info=replace(generator.info, steps=steps))


@click.command(help=__doc__)
@click.option("--full", multiple=True, type=int, default=(50, 20), show_default=True)
@click.option("--steps", multiple=True, type=int, default=(6, 8, 10), show_default=True)
@click.option("--unclear", multiple=True, type=float, default=(1, 1.05, 1.1, 1.2, 1.5))
@click.option("--generator", type=Path, default=GENERATOR, show_default=True)
@click.option("--root", type=Path, default=".", show_default=True, help="where data/ is")
@click.option("--out", type=Path, default="benchmarks/preview.csv", show_default=True)
def main(
    full: tuple[int, ...],
    steps: tuple[int, ...],
    unclear: tuple[float, ...],
    generator: Path,
    root: Path,
    out: Path,
) -> None:
    os.environ.setdefault("DVC_ROOT", str(root.resolve()))
    pairs = pairs_of_set(root)
    models = {dtype: load_generator(generator, RenderSettings(dtype=dtype)) for dtype in DTYPES}
    renderers = {
        (dtype, n): Renderer(
            LocalEngine(with_steps(models[dtype], n)),
            DiskStore(store_folder(root)),
            pairs.sources,
            bar,
        )
        for dtype, n in product(DTYPES, full)
    }
    exactly = {n: exact(pairs.slots, renderers["float32", n], pairs.landmarks)[0] for n in full}
    rows = [
        compare(case, exactly[case.full], renderers[case.dtype, case.full], pairs)
        for case in cases_of(full, steps, unclear)
    ]
    table = pd.DataFrame(rows)
    write_table(table, out, AGREEMENT)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
