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

import click
import numpy as np
import pandas as pd
import torch

from genie.classify.backbone import embed, load_backbone
from genie.data.images import decode_image
from genie.data.wording import prompt_for
from genie.generate.noise import denoising_steps, levels
from genie.generate.renderer import Renderer, load_renderer
from genie.generate.request import Request, Wanted
from genie.generate.search import Landmarks, Trajectory, exact, landmarks_of, preview
from genie.keyed import identity
from genie.tables import TASKS, TRAJECTORIES, Schema, read_images, read_table, write_table
from stages.shared.places import features_file, store_folder
from stages.shared.progress import bar

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
RATIOS = levels(0.5, 0.9, 5)
FIXED = 0.8  # the ratio whose cost others are compared with
BACKBONE = Path("zoo/backbone")
GENERATOR = Path("zoo/generator")


@dataclass(frozen=True)
class Pairs:
    """What is searched: sources and targets with the axes between them, and source images."""

    wanted: Sequence[Wanted]
    marks: Landmarks
    sources: dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A cheap search, and the steps of the exact one that it is compared with."""

    full: int
    steps: int
    unclear: float = 1
    dtype: str = "float32"


def pairs_of_set(root: Path) -> Pairs:
    """All pairs of `data/augmented/` under `root`."""
    table = read_table(root / "data/augmented/trajectories.parquet", TRAJECTORIES)
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", TASKS)
    backbone = load_backbone(BACKBONE, cache=features_file(root))
    real = embed([decode_image(png) for png in images["png"]], model=backbone)
    vectors = dict(zip(images["image_id"], real, strict=True))
    support = tasks[tasks["role"] == "support"]
    shown = support.groupby(["task", "label"])["image_id"].agg(identity)
    wanted = [
        Wanted(
            row.task,
            levels_of(
                *(row.source_id, row.source_label, row.target_label, row.replicate),
                support_id=shown[row.task, row.target_label],
            ),
        )
        for row in table[table["level"] == 0].itertuples()
    ]
    marks = landmarks_of(support, vectors, backbone)
    return Pairs(wanted, marks, dict(zip(images["image_id"], images["png"], strict=True)))


def levels_of(
    source: str, label: str, target: str, replicate: int, *, support_id: str
) -> tuple[Request, ...]:
    """A source's requests at all levels."""
    known = (source, label, target, prompt_for(target), "")
    return tuple(Request(*known, r, replicate, 0, support_id) for r in RATIOS)


def agreement(
    quick: Sequence[int], full: Sequence[int], *, guided: float, full_steps: int
) -> dict[str, float]:
    """How often two searches choose the same level, and the guided steps per pair of `quick`."""
    gaps = np.abs(np.subtract(quick, full))
    return {
        "same": round(float(np.mean(gaps == 0)), 4),
        "within_one_level": round(float(np.mean(gaps <= 1)), 4),
        "guided_steps": round(guided, 1),
        "times_fixed": round(guided / denoising_steps(FIXED, full_steps), 2),
    }


def compare(
    case: Case, known: Sequence[Trajectory], renderer: Renderer, pairs: Pairs
) -> dict[str, object]:
    """A row of AGREEMENT: a cheap search against the trajectories of the exact one."""
    found, guided = search(case, replace(renderer, steps=case.full), pairs)
    return {
        "dtype": case.dtype,
        "full_steps": case.full,
        "preview_steps": case.steps,
        "unclear": case.unclear,
        "pairs": len(found),
        "settled_in_full": round(share(one.shift_ratio < case.unclear for one in found), 4),
        "exact_steps": exact_cost(case.full),
        **agreement(chosen(found), chosen(known), guided=guided, full_steps=case.full),
    }


def search(case: Case, renderer: Renderer, pairs: Pairs) -> tuple[list[Trajectory], float]:
    """Trajectories of the case's search, and its guided steps per pair.

    As many steps as in full are an exact search, whose images need not be rendered again.
    """
    if case.steps == case.full:
        found, _ = exact(pairs.wanted, renderer, pairs.marks)
        return found, exact_cost(case.full)
    found, _ = preview(pairs.wanted, renderer, pairs.marks, steps=case.steps, unclear=case.unclear)
    in_full = [
        sum(
            denoising_steps(request.r, case.full)
            for request, steps in zip(one.candidates, one.steps, strict=True)
            if steps == case.full
        )
        for one in found
    ]
    return found, exact_cost(case.steps) + float(np.mean(in_full))


def exact_cost(steps: int) -> int:
    """Guided steps of all levels of a pair."""
    return sum(denoising_steps(r, steps) for r in RATIOS)


def chosen(trajectories: Iterable[Trajectory]) -> list[int]:
    """The level that each trajectory takes."""
    return [one.chosen for one in trajectories if one.chosen is not None]


def share(values: Iterable[bool]) -> float:
    """How many of them are true, in [0, 1]."""
    return float(np.mean(list(values)))


def cases_of(full: Sequence[int], steps: Sequence[int], unclear: Sequence[float]) -> list[Case]:
    """All cases in float32, then bfloat16 by previews and in full."""
    cases = [Case(*values) for values in product(full, steps, unclear)]
    return cases + [Case(full[-1], few, dtype="bfloat16") for few in (steps[-1], full[-1])]


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
    renderers = {
        dtype: load_renderer(
            generator,
            sources=pairs.sources,
            store=store_folder(root),
            dtype=getattr(torch, dtype),
            watch=lambda drawn, total: bar(drawn, total=total, label="render", unit="image"),
        )
        for dtype in ("float32", "bfloat16")
    }
    known = {n: exact(pairs.wanted, renderers["float32"], pairs.marks, steps=n)[0] for n in full}
    rows = [
        compare(case, known[case.full], renderers[case.dtype], pairs)
        for case in cases_of(full, steps, unclear)
    ]
    table = pd.DataFrame(rows)
    write_table(table, out, AGREEMENT)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
