"""All outputs of the stage `analyse`, from those of a small run."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from genie.classify.backbone import ImageModel, load_backbone, load_oracle
from genie.core.errors import MissingFileError
from genie.core.tables import CHOICES, LEVELS, read_table
from genie.figures.analysis import Outputs, draw_figures, read_outputs
from genie.measure.analysis import boundary_probabilities, by_level
from genie.measure.evaluation import evaluate, read_scored, write_evaluation
from tests.genie.measure.small_run import CLASSES, RATIOS, write_small_run

FIGURES = ("contact_sheet", "boundary", "trajectories", "ratios", "failures")
COST = {"needed": 18, "guided_steps_needed": 270, "rejected": 0, "short": 0, "images": 6}


@pytest.fixture(scope="module")
def backbone() -> ImageModel:
    return load_backbone(Path("zoo/backbone"), device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory, backbone) -> Path:
    root = tmp_path_factory.mktemp("run")
    write_small_run(root, backbone)
    oracle = load_oracle(Path("zoo/oracle"), device="cpu")
    write_evaluation(evaluate(read_scored(root), backbone=backbone, oracle=oracle), root)
    (root / "metrics/cost.json").write_text(json.dumps(COST))
    return root


@pytest.fixture(scope="module")
def outputs(run, backbone) -> Outputs:
    return read_outputs(run, backbone)


def test_outputs_of_earlier_stages_are_read_with_embeddings_by_image_and_by_task(run, outputs):
    assert outputs.augmented == run / "data/augmented"
    assert set(outputs.embeddings) == set(outputs.png) == set(outputs.images["image_id"])
    assert set(outputs.webp) == set(outputs.trajectories["key"])
    for task, examples in outputs.by_task.items():
        own = outputs.support[outputs.support["task"] == task]
        assert list(examples.labels) == list(own["label"])
        for name, vector in zip(own["image_id"], examples.embeddings, strict=True):
            assert (outputs.embeddings[name] == vector).all()
    assert outputs.cost == COST
    assert outputs.summary["images"] == len(outputs.metadata)


def test_every_table_figure_and_the_report_are_drawn(outputs, tmp_path):
    plots = tmp_path / "plots"
    count = draw_figures(outputs, plots, seed=0, method="genie")
    assert count == len(outputs.trajectories) == 2 * len(CLASSES) * len(RATIOS)
    names = {f"{name}.png" for name in FIGURES} | {"levels.csv", "choices.csv", "report.html"}
    assert {path.name for path in plots.iterdir()} == names
    assert all((plots / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in FIGURES)
    probabilities = boundary_probabilities(outputs.trajectories, outputs.by_task, seed=0)
    levels = read_table(plots / "levels.csv", LEVELS)
    pd.testing.assert_frame_equal(levels, by_level(probabilities), check_dtype=False)
    assert list(read_table(plots / "choices.csv", CHOICES)["r"]) == ["0.7", "all"]
    page = (plots / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert all(name in page for name in CLASSES)


def test_run_without_images_has_every_output_too(outputs, tmp_path):
    tables = ("members", "metadata", "trajectories", "verdicts")
    nothing = {name: getattr(outputs, name).iloc[:0] for name in tables}
    assert draw_figures(replace(outputs, **nothing), tmp_path, seed=0, method="strong") == 0
    assert len(list(tmp_path.iterdir())) == len(FIGURES) + 3
    assert "No images were generated." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_missing_table_of_an_earlier_stage_is_named(run, backbone):
    hidden = run / "hidden.parquet"
    (run / "data/thumbnails.parquet").rename(hidden)
    try:
        with pytest.raises(MissingFileError, match=r"thumbnails\.parquet does not exist; run"):
            read_outputs(run, backbone)
    finally:
        hidden.rename(run / "data/thumbnails.parquet")
