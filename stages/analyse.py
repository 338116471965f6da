"""Analyse why the method works: decision boundary, source-target trajectories and chosen levels.

Inputs: data/prepared/support/, data/prepared/tasks.csv, data/augmented/, data/thumbnails.parquet,
data/evaluation/verdicts.csv, plots/confusion_baseline.csv, plots/confusion.csv,
metrics/evaluate.json, metrics/cost.json, the backbone.
Outputs: levels.csv, choices.csv, contact_sheet.png, boundary.png, trajectories.png, ratios.png,
failures.png and report.html in plots/.
"""

import json
from pathlib import Path

from genie.classify.backbone import load_backbone
from genie.classify.examples import load_examples, picker
from genie.data.images import decode_image
from genie.figures.boundary import boundary_figure
from genie.figures.contact_sheet import contact_rows, contact_sheet
from genie.figures.curves import curves
from genie.figures.failures import failure_rows, failure_sheet
from genie.figures.gallery import gallery_of
from genie.figures.report import write_report
from genie.figures.trajectories import ratio_figure, trajectory_figure, trajectory_panels
from genie.measure.analysis import boundary_probabilities, by_level, choices, confusion_change
from genie.tables import (
    CALLED,
    CHOICES,
    LEVELS,
    MEMBERS,
    METADATA,
    TASKS,
    THUMBNAILS,
    TRAJECTORIES,
    VERDICTS,
    read_images,
    read_table,
    write_table,
)

from .shared.command import stage
from .shared.params import Params
from .shared.places import features_file


@stage
def main(params: Params, root: Path) -> str:
    """Analyse the decision boundary, the trajectories and the chosen noise ratios."""
    augmented, plots = root / "data/augmented", root / "plots"
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", TASKS)
    support = tasks[tasks["role"] == "support"]
    members = read_table(augmented / "members.csv", MEMBERS)
    trajectories = read_table(augmented / "trajectories.parquet", TRAJECTORIES)
    verdicts = read_table(root / "data/evaluation/verdicts.csv", VERDICTS)
    thumbnails = read_table(root / "data/thumbnails.parquet", THUMBNAILS)
    webp = dict(zip(thumbnails["key"], thumbnails["webp"], strict=True))
    png = dict(zip(images["image_id"], images["png"], strict=True))
    backbone = load_backbone(params.classifier.backbone, cache=features_file(root))
    examples = load_examples(images, backbone=backbone)
    embeddings = dict(zip(images["image_id"], examples.embeddings, strict=True))
    example_of = picker(examples, images["image_id"])
    by_task = {int(t): example_of(rows["image_id"]) for t, rows in support.groupby("task")}

    table = boundary_probabilities(trajectories, by_task, seed=params.seed)
    write_table(by_level(table), plots / "levels.csv", LEVELS)
    write_table(choices(trajectories, verdicts), plots / "choices.csv", CHOICES)
    rows = contact_rows(
        trajectories, images, support, picture_of=lambda key: decode_image(webp[key])
    )
    contact_sheet(rows, plots / "contact_sheet.png")
    boundary_figure(table, plots / "boundary.png")
    trajectory_figure(
        trajectory_panels(trajectories, embeddings, by_task), plots / "trajectories.png"
    )
    ratio_figure(trajectories, plots / "ratios.png")
    failures = failure_rows(members, verdicts, png, folder=augmented)
    failure_sheet(failures, plots / "failures.png", judged=len(verdicts))
    before, after = (
        read_table(plots / name, CALLED) for name in ("confusion_baseline.csv", "confusion.csv")
    )
    write_report(
        plots / "report.html",
        gallery_of(trajectories, verdicts, support, png=png, webp=webp),
        summary=json.loads((root / "metrics/evaluate.json").read_text(encoding="utf-8")),
        cost=json.loads((root / "metrics/cost.json").read_text(encoding="utf-8")),
        metadata=read_table(augmented / "metadata.csv", METADATA),
        confusion=confusion_change(before, after),
        curves=curves(trajectories),
    )
    return f"analyse: {len(table)} images in plots/levels.csv, 5 figures and report.html in plots/"


if __name__ == "__main__":
    main()
