import json
import shutil
from pathlib import Path

import pytest

from genie.core.tables import IMAGES, TASKS, TRAJECTORIES, read_table, write_table
from stages import generate, select_sources, train_baseline
from tests.stages.running import ROOT, done, prepare, run

LABELS = ("bag", "coat", "shirt")


@pytest.fixture(scope="module")
def trained(tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of two images per class, its baseline and its source classes."""
    place = prepare(tmp_path_factory.mktemp("generate"), LABELS, tasks=1, shots=2)
    done(train_baseline, place, tiny_sd_folder)
    done(select_sources, place, tiny_sd_folder)
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "place"))


@pytest.mark.parametrize(
    ("method", "noise", "full", "steps"),
    [
        ("genie", {"search": "exact"}, 12, {12}),
        ("genie", {"search": "preview"}, 12, {10, 12}),
        ("genie", {"search": "preview"}, 10, {10}),
        ("genie", {"search": "preview", "r": 0.7}, 12, {12}),
        ("img2img", {"search": "preview"}, 12, {12}),
        ("txt2img", {"search": "preview"}, 12, {12}),
    ],
)
def test_levels_are_compared_by_previews_only_where_there_is_a_choice(
    place, tiny_sd_folder, method, noise, full, steps
):
    few = {"augment": {"per_class": 1}, "generator": {"steps": full}}
    done(generate, place, tiny_sd_folder, method=method, noise=noise, **few)
    table = read_table(place / "data/augmented/trajectories.parquet", TRAJECTORIES)
    assert set(table["steps"]) == steps
    assert set(table.loc[table["chosen"], "steps"]) == {full}


def test_tracked_cost_is_the_same_whatever_the_store_held(place, tiny_sd_folder):
    done(generate, place, tiny_sd_folder)
    first = (place / "metrics/cost.json").read_bytes()
    cost = json.loads(first)
    assert list(cost) == ["needed", "guided_steps_needed", "rejected", "short", "images"]
    noted = json.loads((place / ".genie/runs/rendering.json").read_text())
    assert (noted["found"], noted["rendered"]) == (0, cost["needed"])
    assert noted["guided_steps_rendered"] == cost["guided_steps_needed"]
    assert (noted["batch_size"], noted["in_float32"]) == (32, 0)
    assert noted["seconds"] > 0
    done(generate, place, tiny_sd_folder)
    assert (place / "metrics/cost.json").read_bytes() == first
    noted = json.loads((place / ".genie/runs/rendering.json").read_text())
    assert (noted["found"], noted["rendered"]) == (cost["needed"], 0)
    assert noted["guided_steps_rendered"] == 0


@pytest.mark.parametrize("short", [0, 3])
def test_missing_images_give_a_warning(place, tiny_sd_folder, caplog, short):
    every = {"rule": "cosine", "min_text": 1.0, "min_image": 1.0, "attempts": 2}
    done(
        generate,
        place,
        tiny_sd_folder,
        noise={"r": 0.7},
        augment={"per_class": 1},
        filter=every if short else {"rule": "none"},
    )
    cost = json.loads((place / "metrics/cost.json").read_text())
    assert (cost["short"], cost["rejected"], cost["images"]) == (short, 2 * short, 3 - short)
    warned = "3 of 3 images were rejected in all 2 attempts" in caplog.text
    assert warned == bool(short)


def test_class_that_came_after_the_check_of_the_parameters_stops_before_it_is_rendered(place):
    for path, schema in (("tasks.csv", TASKS), ("support/images.parquet", IMAGES)):
        table = read_table(place / "data/prepared" / path, schema)
        table = table.assign(label=table["label"].replace("shirt", "cat"))
        write_table(table, place / "data/prepared" / path, schema)
    result = run(generate, place, ROOT / "zoo/generator")
    assert result.exit_code == 1
    assert "does not know 1 of the classes: 'cat'" in result.stderr
    assert not list((place / ".genie").rglob("*.png"))
