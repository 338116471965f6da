from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genie.classify import tasks
from genie.classify.classifier import FINETUNE, fit, out_of_fold
from genie.classify.examples import Examples, load_examples
from genie.classify.settings import TrainingSettings
from genie.classify.tasks import Recipe, retrain, train_baseline, train_baselines
from genie.core.errors import MissingFileError
from genie.core.progress import Monitor
from genie.core.seeding import identity_of, task_seed
from genie.core.tables import MIXTURES, PREDICTIONS, TRAJECTORIES
from genie.data.augmented_set import Provenance, set_of
from genie.data.images import encode_png, image_id
from genie.data.tasks import generated_per_class

PER_CLASS = partial(generated_per_class, per_class=4, classes="all", every_source=False)
LABELS = ["bag"] * 3 + ["coat"] * 2


def noise(count: int, *, seed: int) -> list[Image.Image]:
    random = np.random.default_rng(seed)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def images() -> pd.DataFrame:
    rows = [
        (image_id(image), label, encode_png(image))
        for image, label in zip(noise(5, seed=0), LABELS, strict=True)
    ]
    return pd.DataFrame(rows, columns=["image_id", "label", "png"])


@pytest.fixture(scope="module")
def support(images) -> pd.DataFrame:
    """Tasks 0 and 2 with all images, and task 1 with two bags and the coats."""
    every = images[["image_id", "label"]]
    parts = [every, every.iloc[1:], every]
    return pd.concat([part.assign(task=task, role="support") for task, part in enumerate(parts)])


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe(TrainingSettings(head="prototype", seed=7), PER_CLASS)


class Recorder:
    """A monitor's two functions, which record how they are called."""

    def __init__(self) -> None:
        self.loops: list[tuple[str, int, str]] = []
        self.curves: dict[str, list[int]] = {}
        self.monitor = Monitor(self.progress, self.record)

    def progress(self, items, label, *, total, unit="", **options):
        self.loops.append((label, total, unit))
        return items

    def record(self, curve: str, step: int, value: float) -> None:
        self.curves.setdefault(curve, []).append(step)
        assert np.isfinite(value)


@pytest.fixture
def fitted(monkeypatch) -> list[tuple[Examples, TrainingSettings]]:
    """The examples and settings of every classifier that `tasks` trains."""
    calls: list[tuple[Examples, TrainingSettings]] = []

    def recorded(examples: Examples, settings: TrainingSettings):
        calls.append((examples, settings))
        return fit(examples, settings)

    monkeypatch.setattr(tasks, "fit", recorded)
    return calls


# Baselines


def test_baseline_is_predicted_out_of_fold_and_trained_with_copies(
    images, recipe, backbone, fitted
):
    rows = images[["image_id", "label"]]
    examples = load_examples(images, backbone=backbone)
    extra = {"bag": 4, "coat": 1}
    model, predictions = train_baseline(rows, examples, extra, recipe.training, backbone)
    (trained_on, settings), *others = fitted
    assert not others
    assert Counter(trained_on.labels) == {"bag": 3 + 4, "coat": 2 + 1}
    assert settings.seed == task_seed(7, identity_of(rows), "training")
    assert model.classes == ("bag", "coat")
    assert set(predictions.columns) == set(PREDICTIONS) - {"task"}
    wide = predictions.pivot(index="image_id", columns="predicted", values="probability")
    expected = out_of_fold(examples, settings)
    assert wide.loc[list(images["image_id"])].to_numpy() == pytest.approx(expected)


def test_baselines_of_all_tasks_are_trained_with_their_predictions(
    images, support, recipe, backbone
):
    recorder = Recorder()
    models, predictions = train_baselines(
        images, support, recipe, backbone, monitor=recorder.monitor
    )
    assert list(models) == [0, 1, 2]
    assert set(predictions.columns) == set(PREDICTIONS)
    assert predictions.groupby("task")["image_id"].nunique().tolist() == [5, 4, 5]
    assert (predictions.groupby(["task", "image_id"]).size() == 2).all()
    assert recorder.loops[-1] == ("train", 3, "task")
    assert {loop[0] for loop in recorder.loops[:-1]} == {"embed images"}
    assert recorder.curves == {}


def test_tasks_with_equal_support_sets_draw_the_same_and_others_do_not(
    images, support, recipe, backbone, fitted
):
    models, _ = train_baselines(images, support, recipe, backbone, monitor=Monitor())
    copies = []
    for (examples, _), real in zip(fitted, (5, 4, 5), strict=True):
        drawn = [examples.images[i] for i in range(real, len(examples.labels))]
        copies.append({image.tobytes() for image in drawn})
    seeds = [settings.seed for _, settings in fitted]
    assert seeds[0] == seeds[2] != seeds[1]
    assert copies[0] == copies[2] != copies[1]
    assert all((models[2].weights[k] == v).all() for k, v in models[0].weights.items())


def test_losses_are_recorded_by_task(images, support, backbone, settings):
    training = replace(settings, head=FINETUNE, steps=2, batch_size=2)
    recorder = Recorder()
    few = support[support["task"] < 2]
    recipe = Recipe(training, PER_CLASS)
    train_baselines(images, few, recipe, backbone, monitor=recorder.monitor)
    assert recorder.curves == {"loss/task_0": [0, 1], "loss/task_1": [0, 1]}


# With generated images


def saved(folder: Path, images: pd.DataFrame, *, weight: float = 1.0) -> Path:
    """A set of three coats made of bags for task 0, and of one coat for task 1."""
    pictures = dict(zip("abc", noise(3, seed=1), strict=True))
    bags = list(images["image_id"][:3])
    rows = [
        {
            "task": task,
            "target_label": "coat",
            "source_label": "bag",
            "source_id": bags["abc".index(key)],
            "replicate": 0,
            "level": 0,
            "r": 0.7,
            "key": key,
            "steps": 15,
            "position": 0.5,
            "shift_ratio": 1.5,
            "chosen": True,
            "predicted_target": True,
            "embedding": np.ones(3, np.float32),
            "prompt": "a photo of a coat",
            "negative_prompt": "",
            "seed": 7,
            "support_id": "",
            "target_weight": weight,
        }
        for task, keys in ((0, "abc"), (1, "b"))
        for key in keys
    ]
    table = pd.DataFrame(rows)
    assert set(TRAJECTORIES) <= set(table.columns)
    made = set_of(
        table,
        Provenance("genie", 3.0, "PNDMScheduler", "sd15", "abc"),
        png_of=lambda key: encode_png(pictures[key]),
        classes=("bag", "coat"),
    )
    made.save(folder)
    return folder


def test_copies_make_up_for_images_that_were_not_generated(
    tmp_path, images, support, recipe, backbone, fitted
):
    folder = saved(tmp_path, images)
    few, recorder = support[support["task"] < 2], Recorder()
    models, mixtures = retrain(images, few, folder, recipe, backbone, monitor=recorder.monitor)
    assert list(models) == [0, 1]
    assert [Counter(examples.labels) for examples, _ in fitted] == [
        {"bag": 3 + 4, "coat": 2 + 4},
        {"bag": 2 + 4, "coat": 2 + 4},
    ]
    generated = [image.tobytes() for image in noise(3, seed=1)]
    assert [fitted[0][0].images[5 + i].tobytes() for i in range(3)] == generated
    assert fitted[1][0].images[4].tobytes() == generated[1]
    assert mixtures.empty
    assert set(mixtures.columns) == set(MIXTURES)
    assert recorder.loops[-1] == ("train", 2, "task")
    assert {loop[0] for loop in recorder.loops[:-1]} == {"embed images"}


def test_real_images_are_passed_several_times(tmp_path, images, support, recipe, backbone, fitted):
    folder, few = saved(tmp_path, images), support[support["task"] == 0]
    retrain(images, few, folder, replace(recipe, real_passes=3), backbone, monitor=Monitor())
    assert Counter(fitted[0][0].labels) == {"bag": 3 * 3 + 4, "coat": 3 * 2 + 4}


def test_copier_of_the_recipe_is_used(tmp_path, images, support, recipe, backbone, fitted):
    folder, few = saved(tmp_path, images), support[support["task"] == 0]
    plain = replace(recipe, copier="unchanged")
    retrain(images, few, folder, plain, backbone, monitor=Monitor())
    (examples, _), real = fitted[0], {image.tobytes() for image in noise(5, seed=0)}
    assert {examples.images[i].tobytes() for i in range(8, len(examples.labels))} <= real


def test_soft_labels_divide_the_weight_between_target_and_source(
    tmp_path, images, support, recipe, backbone, fitted
):
    folder, few = saved(tmp_path, images, weight=0.75), support[support["task"] == 0]
    retrain(images, few, folder, recipe, backbone, monitor=Monitor())
    examples, _ = fitted[0]
    assert examples.labels[5:11] == ["coat"] * 3 + ["bag"] * 3
    assert examples.weights[5:11] == pytest.approx([0.75] * 3 + [0.25] * 3)


@pytest.mark.parametrize("mixer", ["pixel-and-patch", "half-and-fractal"])
def test_mixtures_are_listed_by_task_and_file(
    tmp_path, images, support, recipe, backbone, fitted, mixer
):
    folder, few = saved(tmp_path, images), support[support["task"] < 2]
    _, mixtures = retrain(
        images, few, folder, replace(recipe, mixer=mixer), backbone, monitor=Monitor()
    )
    assert set(mixtures.columns) == set(MIXTURES)
    assert mixtures["task"].tolist() == [0, 0, 0, 1]
    assert mixtures["file_name"].tolist() == [
        "coat/a.png",
        "coat/b.png",
        "coat/c.png",
        "coat/b.png",
    ]
    weights = fitted[0][0].weights
    assert weights[5:8] == pytest.approx(mixtures["share"][:3].to_numpy(), abs=1e-6)
    assert sum(fitted[0][0].weights) == pytest.approx(5 + 2 * 4)


@pytest.mark.parametrize("own", [True, False])
def test_images_are_mixed_with_their_sources_if_the_recipe_has_it(
    tmp_path, images, support, recipe, backbone, fitted, own
):
    folder, few = saved(tmp_path, images), support[support["task"] == 0]
    mixing = replace(recipe, mixer="pixel-and-patch", mixes_with_sources=own)
    retrain(images, few, folder, mixing, backbone, monitor=Monitor())
    partner = fitted[0][0].labels[8:11]
    assert set(partner) == ({"bag"} if own else {"coat"})


def test_missing_set_is_named(tmp_path, images, support, recipe, backbone):
    with pytest.raises(MissingFileError, match=r"members\.csv does not exist; run `dvc repro`"):
        retrain(images, support, tmp_path, recipe, backbone, monitor=Monitor())
