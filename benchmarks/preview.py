"""How often a preview search chooses the same level as the exact search.

    python -m benchmarks.preview

Five images from each class of the bundled data are paired with all other classes as targets; these
images are also the examples of their class. Previews use the library's number of steps
(`PREVIEW_STEPS`) and bound (`UNCLEAR`). Every search is compared with the exact search in float32
with the same number of full steps and the same rule: `min_position`, or the paper's rule if
`min_position` is empty. Output: benchmarks/preview.csv. `guided_steps` is the mean number of steps
per pair. `times_fixed` is the ratio of `guided_steps` to the steps with a fixed r = 0.8, and
`exact_times_fixed` is the same ratio for the exact search.
"""

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import click
import numpy as np
import pandas as pd

from genie.choose.search import landmarks_of, search
from genie.classify.backbone import load_backbone
from genie.classify.examples import load_examples
from genie.cli.places import features_file, work_folder
from genie.core.tables import read_images
from genie.data.prompts import Prompts
from genie.pipeline import GeNIe
from genie.plan.levels import Levels, denoising_steps
from genie.plan.methods import levels_of
from genie.plan.requests import Slot
from genie.plan.tasks import TaskSpec
from genie.progress import bar
from genie.render.loop import Renderer
from genie.render.model_info import RenderSettings

FIXED = 0.8
OURS, PAPERS = Levels().min_position, None


class Case(NamedTuple):
    """A search, with the denoiser's precision, the steps of a full rendering, and the rule."""

    dtype: Literal["float32", "bfloat16"]
    full_steps: int
    search: Literal["exact", "preview"]
    min_position: float | None


def cases_of(steps: Sequence[int]) -> list[Case]:
    """Return preview searches by number of full steps; for the last, also bfloat16 searches."""
    previews = [Case("float32", n, "preview", rule) for n, rule in product(steps, (OURS, PAPERS))]
    return [*previews, *(Case("bfloat16", steps[-1], by, OURS) for by in ("preview", "exact"))]


def slots_of(images: pd.DataFrame) -> list[Slot]:
    """Return a slot with all levels for each image and each other class as its target."""
    task = TaskSpec(images, pd.DataFrame(), {}, Levels().ratios, Prompts(), seed=0)
    classes = sorted(task.images)
    return [
        Slot(0, levels_of(task, target, row.label, row.image_id, 0))
        for row, target in product(images.itertuples(), classes)
        if target != row.label
    ]


@click.command(help=__doc__)
@click.option("--data", type=Path, default="data/bundled/train", show_default=True)
@click.option("--generator", type=Path, default="zoo/generator", show_default=True)
@click.option("--steps", multiple=True, type=int, default=(50, 20), show_default=True)
@click.option("--out", type=Path, default="benchmarks/preview.csv", show_default=True)
def main(data: Path, generator: Path, steps: tuple[int, ...], out: Path) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    images = read_images(data).groupby("label").head(5)
    slots, png = slots_of(images), dict(zip(images["image_id"], images["png"], strict=True))
    backbone = load_backbone(Path("zoo/backbone"), cache=features_file(Path()))
    real = load_examples(images, backbone=backbone).embeddings
    embeddings = dict(zip(images["image_id"], real, strict=True))
    landmarks = landmarks_of(images.assign(task=0), embeddings, backbone)

    def choices(case: Case) -> tuple[np.ndarray, float]:
        """Return the chosen level of each pair, and the guided steps per pair."""
        settings = RenderSettings(dtype=case.dtype, steps=case.full_steps)
        pipe = GeNIe.from_pretrained(generator, store=work_folder(Path()), settings=settings)
        renderer = Renderer(pipe.engine, pipe.store, png, bar)
        levels = Levels(search=case.search, min_position=case.min_position)
        found, cost = search(slots, renderer, landmarks, levels)
        return np.array([t.chosen for t in found], float), cost.guided_steps_needed / len(slots)

    rows = []
    for case in cases_of(steps):
        found, guided = choices(case)
        exact, most = choices(case._replace(dtype="float32", search="exact"))
        gaps, fixed = np.abs(found - exact), denoising_steps(FIXED, case.full_steps)
        row = {**case._asdict(), "pairs": len(slots), "same": np.mean(gaps == 0)}
        row |= {"within_one_level": np.mean(gaps <= 1), "guided_steps": guided}
        rows.append(row | {"times_fixed": guided / fixed, "exact_times_fixed": most / fixed})
    table = pd.DataFrame(rows).round(4)
    table.to_csv(out, index=False, lineterminator="\n")
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
