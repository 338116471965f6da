"""All tables and figures of the stage `analyse`, computed from the outputs of earlier stages."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from genie.classify.backbone import ImageModel
from genie.classify.examples import Examples, load_examples, picker
from genie.core.progress import Progress, silent
from genie.core.tables import (
    CHOICES,
    LEVELS,
    MEMBERS,
    METADATA,
    PREDICTED,
    THUMBNAILS,
    TRAJECTORIES,
    VERDICTS,
    read_images,
    read_support,
    read_table,
    write_table,
)
from genie.data.images import decode_image
from genie.figures.boundary import boundary_figure
from genie.figures.contact_sheet import contact_rows, contact_sheet
from genie.figures.curves import curves
from genie.figures.failures import failure_rows, failure_sheet
from genie.figures.gallery import gallery_of
from genie.figures.report import Measured, write_report
from genie.figures.trajectories import ratio_figure, trajectory_figure, trajectory_panels
from genie.measure.analysis import boundary_probabilities, by_level, choices, confusion_change


@dataclass(frozen=True)
class Outputs:
    """The outputs of the stages before `analyse`: tables, thumbnails by key, and embeddings.

    `png` and `embeddings` are keyed by image_id, and `by_task` maps tasks to support examples.
    """

    augmented: Path
    images: pd.DataFrame
    support: pd.DataFrame
    members: pd.DataFrame
    metadata: pd.DataFrame
    trajectories: pd.DataFrame
    verdicts: pd.DataFrame
    before: pd.DataFrame
    after: pd.DataFrame
    webp: dict[str, bytes]
    png: dict[str, bytes]
    embeddings: dict[str, np.ndarray]
    by_task: dict[int, Examples]
    summary: dict[str, Any]
    cost: dict[str, Any]


def read_outputs(root: Path, backbone: ImageModel) -> Outputs:
    """Read the outputs from a project folder, and embed the support images.

    Raise MissingFileError if a table is missing, and InvalidValueError if a table is malformed.
    """
    augmented, plots, metrics = root / "data/augmented", root / "plots", root / "metrics"
    images = read_images(root / "data/prepared/support")
    support = read_support(root / "data/prepared/tasks.csv")
    thumbnails = read_table(root / "data/thumbnails.parquet", THUMBNAILS)
    examples = load_examples(images, backbone=backbone)
    example_of = picker(examples, images["image_id"])
    return Outputs(
        augmented=augmented,
        images=images,
        support=support,
        members=read_table(augmented / "members.csv", MEMBERS),
        metadata=read_table(augmented / "metadata.csv", METADATA),
        trajectories=read_table(augmented / "trajectories.parquet", TRAJECTORIES),
        verdicts=read_table(root / "data/evaluation/verdicts.csv", VERDICTS),
        before=read_table(plots / "confusion_baseline.csv", PREDICTED),
        after=read_table(plots / "confusion.csv", PREDICTED),
        webp=dict(zip(thumbnails["key"], thumbnails["webp"], strict=True)),
        png=dict(zip(images["image_id"], images["png"], strict=True)),
        embeddings=dict(zip(images["image_id"], examples.embeddings, strict=True)),
        by_task={int(t): example_of(rows["image_id"]) for t, rows in support.groupby("task")},
        summary=json.loads((metrics / "evaluate.json").read_text(encoding="utf-8")),
        cost=json.loads((metrics / "cost.json").read_text(encoding="utf-8")),
    )


def draw_figures(
    outputs: Outputs, plots: Path, *, seed: int, method: str, progress: Progress = silent
) -> int:
    """Write all tables and figures to `plots`; return the number of images that were analysed."""
    trajectories = outputs.trajectories
    table = boundary_probabilities(trajectories, outputs.by_task, seed=seed)
    write_table(by_level(table), plots / "levels.csv", LEVELS)
    write_table(choices(trajectories, outputs.verdicts), plots / "choices.csv", CHOICES)
    figures: list[Callable[[], None]] = [
        lambda: _contact_sheet(outputs, plots),
        lambda: boundary_figure(table, plots / "boundary.png"),
        lambda: trajectory_figure(
            trajectory_panels(trajectories, outputs.embeddings, outputs.by_task),
            plots / "trajectories.png",
        ),
        lambda: ratio_figure(trajectories, plots / "ratios.png"),
        lambda: _failure_sheet(outputs, plots),
        lambda: _report(outputs, plots, method),
    ]
    for draw in progress(figures, "draw", total=len(figures), unit="figure"):
        draw()
    return len(table)


def _contact_sheet(outputs: Outputs, plots: Path) -> None:
    rows = contact_rows(
        outputs.trajectories,
        outputs.images,
        outputs.support,
        picture_of=lambda key: decode_image(outputs.webp[key]),
    )
    contact_sheet(rows, plots / "contact_sheet.png")


def _failure_sheet(outputs: Outputs, plots: Path) -> None:
    failures = failure_rows(
        outputs.members, outputs.verdicts, outputs.png, folder=outputs.augmented
    )
    failure_sheet(failures, plots / "failures.png", judged=len(outputs.verdicts))


def _report(outputs: Outputs, plots: Path, method: str) -> None:
    gallery = gallery_of(
        outputs.trajectories,
        outputs.verdicts,
        outputs.support,
        png=outputs.png,
        webp=outputs.webp,
    )
    measured = Measured(
        summary=outputs.summary,
        cost=outputs.cost,
        metadata=outputs.metadata,
        confusion=confusion_change(outputs.before, outputs.after),
        curves=curves(outputs.trajectories),
        method=method,
    )
    write_report(plots / "report.html", gallery, measured)
