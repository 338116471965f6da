"""What a task draws is its own: noise, copies, mixtures, source classes and initial networks."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genie.classify import tasks as trainings
from genie.classify.examples import Examples
from genie.core.tables import MEMBERS, MIXTURES, SOURCES, TASKS, read_table, write_table
from stages import generate, retrain, select_sources, train_baseline
from tests.stages.running import done, prepare

LABELS = ("bag", "coat", "shirt", "dress", "sandal", "trouser")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Three tasks of three images per class: the first two are equal, the third shares no image."""
    place = prepare(tmp_path_factory.mktemp("tasks"), LABELS, tasks=2, shots=3)
    two = read_table(place / "data/prepared/tasks.csv", TASKS)
    parts = [(0, two[two["task"] == 0]), (1, two[two["task"] == 0]), (2, two[two["task"] == 1])]
    tasks = pd.concat([part.assign(task=task) for task, part in parts])
    write_table(tasks, place / "data/prepared/tasks.csv", TASKS)
    return place


@pytest.fixture(scope="module")
def trained(prepared, tiny_sd_folder) -> Path:
    done(train_baseline, prepared, tiny_sd_folder)
    done(select_sources, prepared, tiny_sd_folder, sources={"strategy": "random"})
    return prepared


@pytest.fixture
def place(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "place"))


@pytest.mark.parametrize("method", ["txt2img", "img2img", "genie"])
def test_only_equal_tasks_share_images(place, tiny_sd_folder, method):
    done(generate, place, tiny_sd_folder, method=method, noise={"r": 0.5})
    members = read_table(place / "data/augmented/members.csv", MEMBERS)
    keys = [set(members.loc[members["task"] == task, "key"]) for task in range(3)]
    assert len(keys[0]) == 4 * len(LABELS)
    assert keys[0] == keys[1]
    assert not keys[0] & keys[2]


@pytest.mark.parametrize("method", ["weak", "strong", "cutmix", "mixup"])
def test_only_equal_tasks_share_crops_partners_boxes_and_shares(
    place, tiny_sd_folder, monkeypatch, method
):
    """Copies are drawn from equal pictures here, so that they differ by what is drawn alone."""
    made: list[Examples] = []
    copies = trainings.copies

    def watched(examples, *args, **options) -> Examples:
        greys = [image.convert("L").point(lambda v: v // 64 * 64) for image in first(examples)]
        same = Examples([g.convert("RGB") for g in greys], examples.embeddings, examples.labels)
        made.append(copies(same, *args, **options))
        return copies(examples, *args, **options)

    def first(examples: Examples) -> list:
        kept.setdefault("images", list(examples.images))
        return kept["images"]

    kept: dict[str, list] = {}
    monkeypatch.setattr(trainings, "copies", watched)
    done(generate, place, tiny_sd_folder, method=method)
    done(retrain, place, tiny_sd_folder, method=method)
    weights = [np.ones(len(m.labels)) if m.weights is None else m.weights for m in made]
    pixels = [np.stack([np.asarray(image) for image in m.images]) for m in made]
    assert (pixels[0] == pixels[1]).all()
    assert (weights[0] == weights[1]).all()
    assert not (pixels[0] == pixels[2]).all()
    if method in ("cutmix", "mixup"):
        shares = [set(w[(w > 0) & (w < 1)]) for w in weights]
        assert len(shares[0]) > 10
        assert not shares[0] & shares[2] if method == "mixup" else shares[0] != shares[2]
        assert list(made[0].labels) == list(made[1].labels) != list(made[2].labels)


def test_only_equal_tasks_share_the_shares_of_mixtures(place, tiny_sd_folder):
    """Mixtures of a generated and a real image; a filter that keeps all leaves all of them."""
    options = {"method": "diffcore-mix", "filter": {"rule": "none"}}
    done(generate, place, tiny_sd_folder, **options)
    done(retrain, place, tiny_sd_folder, **options)
    table = read_table(place / "models/augmented/mixtures.csv", MIXTURES)
    pixel = table[table["level"] == "pixel"]
    shares = [list(pixel.loc[pixel["task"] == task, "share"]) for task in range(3)]
    assert len(shares[0]) == 2 * len(LABELS)
    assert shares[0] == shares[1]
    assert not set(shares[0]) & set(shares[2])


def test_random_sources_are_drawn_for_each_task(place):
    sources = read_table(place / "data/sources/sources.csv", SOURCES)
    drawn = [
        sources[sources["task"] == task].sort_values(["target", "rank"])["source"].tolist()
        for task in range(3)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_networks_start_from_weights_of_their_task(place, tiny_sd_folder, monkeypatch):
    seeds = []
    monkeypatch.setattr(trainings, "fit", lambda examples, settings: seeds.append(settings.seed))
    monkeypatch.setattr(train_baseline, "save_classifiers", lambda models, folder: None)
    done(train_baseline, place, tiny_sd_folder)
    assert seeds[0] == seeds[1] != seeds[2]
