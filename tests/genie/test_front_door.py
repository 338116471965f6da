"""The contract of `from genie import GeNIe`: calls, batches, sets, and the same images in each."""

import inspect
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader

import genie
from genie import AugmentedSet, GeNIe, HardNegative
from genie.classify.backbone import embed
from genie.core.errors import GenieError, InvalidValueError, MissingFileError
from genie.core.progress import silent
from genie.core.tables import METADATA, read_images, read_support
from genie.data.images import decode_image, encode_png, image_id
from genie.data.prompts import Prompts, read_names
from genie.plan.augmentation import FilterSettings
from genie.plan.levels import Levels
from genie.render.model_info import RenderSettings
from genie.settings import read_params
from stages import generate, prepare, select_sources, train_baseline

ROOT = Path(__file__).parents[2]
BACKBONE = ROOT / "zoo/backbone"
QUICK = RenderSettings(steps=6, guidance_scale=3.0, batch_size=16, compile=False)
CLASSES = ["ankle boot", "bag", "coat"]
RATIOS = Levels().ratios

Pairs = list[tuple[Image.Image, str]]


def load(model: Path, *, settings: RenderSettings = QUICK, **options: Any) -> GeNIe:
    """A pipe with few steps that looks through the bundled backbone unless told otherwise."""
    options = {"embedder": BACKBONE, "progress": silent, "device": "cpu"} | options
    return GeNIe.from_pretrained(model, settings=settings, **options)


@pytest.fixture(scope="module")
def pipe(tiny_sd_folder: Path) -> GeNIe:
    """A pipe that all tests may add images to."""
    return load(tiny_sd_folder)


@pytest.fixture
def fresh(tiny_sd_folder: Path) -> GeNIe:
    """A pipe that has rendered nothing."""
    return load(tiny_sd_folder)


@pytest.fixture(scope="module")
def pictures(source_images: dict[str, bytes]) -> list[Image.Image]:
    """Twelve distinct pictures, and four more that are mirrored."""
    images = [decode_image(png) for png in source_images.values()]
    return images + [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images[:4]]


@pytest.fixture(scope="module")
def pairs(photos: Path) -> Pairs:
    """Three pictures of each of three classes."""
    return [
        (Image.open(file).convert("RGB"), name)
        for name in CLASSES
        for file in sorted((photos / "train" / name).iterdir())[:3]
    ]


@pytest.fixture(scope="module")
def coats(pairs: Pairs) -> list[Image.Image]:
    return [image for image, name in pairs if name == "coat"]


def counted(pipe: GeNIe) -> tuple[GeNIe, list[str]]:
    """The pipe with an engine that also lists the prompt of every image it renders."""
    prompts: list[str] = []

    class Counting:
        at_once = pipe.engine.at_once
        info = pipe.engine.info
        generator = pipe.engine.generator
        add_tokens = pipe.engine.add_tokens

        def render(self, batches: Sequence[Any], sources: Any, steps: int) -> Iterator[Any]:
            for results in pipe.engine.render(batches, sources, steps):
                prompts.extend(result.request.prompt for result in results)
                yield results

    return replace(pipe, engine=Counting()), prompts


def furthest(one: Image.Image, other: Image.Image) -> int:
    """The largest difference between two images, in grey levels."""
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


def assert_equal_negatives(one: HardNegative, other: HardNegative) -> None:
    """Equal but for the rounding of another batch, which is at most one grey level."""
    assert (one.key, one.r, one.prompt) == (other.key, other.r, other.prompt)
    assert (one.target, one.source, one.landmark) == (other.target, other.source, other.landmark)
    assert furthest(one.image, other.image) <= 1
    assert [r for r, _ in one.levels] == [r for r, _ in other.levels]
    for (_, here), (_, there) in zip(one.levels, other.levels, strict=True):
        assert furthest(here, there) <= 1
    np.testing.assert_allclose(one.positions, other.positions, atol=0.02)


# The package


def imported_by(code: str) -> set[str]:
    """Modules that a fresh interpreter imports, by its own account."""
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"^import time:.*\|\s+(\S+)$", done.stderr, re.MULTILINE))


def test_import_of_the_package_brings_no_heavy_library():
    loaded = imported_by("import genie")
    assert "genie" in loaded
    tops = {name.partition(".")[0] for name in loaded}
    heavy = {"torch", "pandas", "numpy", "diffusers", "transformers", "PIL", "pyarrow", "sklearn"}
    assert tops & heavy == set()


def test_package_exports_three_names_and_finds_them_when_they_are_used():
    arguments = {"FilterSettings", "Levels", "Prompts", "RenderSettings"}
    assert set(genie.__all__) == {"AugmentedSet", "GeNIe", "HardNegative", *arguments}
    assert set(genie.__all__) <= set(dir(genie))
    assert all(getattr(genie, name).__name__ == name for name in genie.__all__)
    with pytest.raises(AttributeError, match="Genie"):
        getattr(genie, "Genie")  # noqa: B009


# One image


def test_hard_negative_shows_all_levels_and_where_they_stand(pipe, pictures, coats):
    out = pipe(pictures[0], target="coat", examples=coats)
    assert isinstance(out, HardNegative)
    assert [r for r, _ in out.levels] == list(RATIOS)
    assert all(image.size == (32, 32) and image.mode == "RGB" for _, image in out.levels)
    assert (out.target, out.prompt, out.negative_prompt) == ("coat", "a photo of a coat", "")
    assert out.source == image_id(pictures[0])
    # section 3.2, with the embeddings alone: 0 at the source, 1 at the mean of the examples
    z = embed([pictures[0], *coats, *(image for _, image in out.levels)], model=pipe.embedder)
    start, axis = z[0], z[1 : 1 + len(coats)].mean(0) - z[0]
    expected = (z[1 + len(coats) :] - start) @ axis / (axis @ axis)
    np.testing.assert_allclose(out.positions, expected, atol=1e-4)
    jumps = np.diff(out.positions)
    first, second = sorted(np.abs(jumps))[:-3:-1]
    assert out.shift_ratio == pytest.approx(first / second)
    assert out.image.tobytes() == dict(out.levels)[out.r].tobytes()


def test_level_from_the_largest_shift_on_that_is_near_the_target_is_chosen(pipe, pictures, coats):
    for bound in (None, 0.1, 0.8):  # None: Algorithm 1 of the paper
        levels = Levels(min_position=bound)
        for out in pipe(pictures, target="coat", examples=coats, levels=levels):
            largest = int(np.abs(np.diff(out.positions)).argmax()) + 1
            near = [i for i in range(largest, 5) if bound is None or out.positions[i] >= bound]
            assert out.r == RATIOS[near[0] if near else 4]


def test_image_is_the_same_alone_and_in_a_batch_of_sixteen(fresh, tiny_sd_folder, pictures, coats):
    assert len({image_id(image) for image in pictures}) == 16
    alone = fresh(pictures[5], target="coat", examples=coats)
    batch = load(tiny_sd_folder)(pictures, target="coat", examples=coats)
    assert [out.source for out in batch] == [image_id(image) for image in pictures]
    assert_equal_negatives(alone, batch[5])


def test_images_do_not_depend_on_their_order(tiny_sd_folder, pictures, coats):
    forth = load(tiny_sd_folder)(pictures[:6], target="coat", r=0.7, examples=coats)
    back = load(tiny_sd_folder)(pictures[5::-1], target="coat", r=0.7, examples=coats[::-1])
    for one, other in zip(forth, reversed(back), strict=True):
        assert_equal_negatives(one, other)


def test_fixed_ratio_is_the_level_of_the_search(pipe, pictures, coats):
    searched = pipe(pictures[1], target="coat", examples=coats)
    fixed = pipe(pictures[1], target="coat", examples=coats, r=0.7)
    assert (fixed.r, len(fixed.levels)) == (0.7, 1)
    assert fixed.image.tobytes() == dict(searched.levels)[0.7].tobytes()
    assert np.isnan(fixed.shift_ratio)


def test_picture_of_any_size_and_mode_is_cropped_to_its_central_square(pipe, pictures, coats):
    wide = Image.new("RGB", (64, 32), "red")
    wide.paste(pictures[0], (16, 0))
    assert pipe(wide, target="coat", r=0.7).key == pipe(pictures[0], target="coat", r=0.7).key
    grey = pictures[0].convert("L")
    expected = pipe(grey.convert("RGB"), target="coat", examples=coats, r=0.7)
    assert pipe(grey, target="coat", examples=coats, r=0.7).key == expected.key


def test_list_gives_a_list_and_an_empty_one_nothing(pipe, pictures):
    (only,) = pipe([pictures[0]], target="coat", r=0.7)
    assert only.key == pipe(pictures[0], target="coat", r=0.7).key
    assert pipe([], target="coat", r=0.7) == []


# Landmarks


def test_without_examples_eight_images_of_the_prompt_are_the_landmark(fresh, pictures):
    pipe, prompts = counted(fresh)
    out = pipe(pictures[0], target="coat")
    assert out.landmark == "txt2img"
    assert Counter(prompts) == {"a photo of a coat": 8 + len(RATIOS)}
    assert len({image_id(image) for image in out.examples}) == 8
    z = embed([pictures[0], *out.examples, *(i for _, i in out.levels)], model=pipe.embedder)
    axis = z[1:9].mean(0) - z[0]
    np.testing.assert_allclose(out.positions, (z[9:] - z[0]) @ axis / (axis @ axis), atol=1e-4)


def test_txt2img_landmarks_serve_all_images_of_a_batch(fresh, pictures):
    pipe, prompts = counted(fresh)
    batch = pipe(pictures[:3], target="coat")
    assert len(prompts) == 8 + 3 * len(RATIOS)
    assert {out.landmark for out in batch} == {"txt2img"}
    assert_equal_negatives(pipe(pictures[2], target="coat"), batch[2])
    assert len(prompts) == 8 + 3 * len(RATIOS)


@pytest.mark.parametrize(("r", "expected"), [("ada", "examples"), (0.7, None)])
def test_landmark_is_stated(pipe, pictures, coats, r, expected):
    examples = coats if r == "ada" else ()
    assert pipe(pictures[0], target="coat", examples=examples, r=r).landmark == expected


def test_without_an_embedder_r_must_be_a_number(tiny_sd_folder, pipe, pictures, coats):
    blind = load(tiny_sd_folder, embedder=None)
    with pytest.raises(InvalidValueError, match=r"^r must be a number .*, got 'ada'; .*r=0\.7"):
        blind(pictures[0], target="coat")
    for examples in ((), coats):
        out = blind(pictures[0], target="coat", r=0.7, examples=examples)
        assert out.landmark is None
        assert np.isnan(out.positions).all()
        seen = pipe(pictures[0], target="coat", r=0.7, examples=examples)
        assert_equal_negatives(replace(seen, landmark=None, positions=out.positions), out)


def test_set_needs_an_embedder(tiny_sd_folder, pairs):
    with pytest.raises(InvalidValueError, match=r"^embedder is required"):
        load(tiny_sd_folder, embedder=None).augment(pairs)


# Wrong arguments


@pytest.mark.parametrize("r", [0, -0.1, 1.01, "auto", True, None])
def test_noise_ratio_out_of_range_is_named(pipe, pictures, pairs, r):
    calls: list[Callable[[], Any]] = [
        lambda: pipe(pictures[0], target="coat", r=r),
        lambda: pipe.augment(pairs, r=r),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r'^r must be "ada" or in \(0, 1\], got ') as raised:
            call()
        assert isinstance(raised.value, GenieError)
        assert (raised.value.argument, raised.value.value) == ("r", r)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "geni"}, "method must be one of .*did you mean genie"),
        ({"sources": "confused"}, "sources must be one of .*did you mean confusion"),
        ({"classes": "rare"}, "classes must be one of all, few"),
        ({"per_class": 0}, "per_class must be at least 1, got 0"),
        ({"unknown_classes": "ask"}, "unknown_classes must be one of stop, allow"),
        ({"method": "real-guidance"}, "clip must be the folder of a CLIP"),
    ],
)
def test_wrong_choice_of_a_set_names_its_argument(pipe, pairs, options, message):
    with pytest.raises(InvalidValueError, match=f"^{message}"):
        pipe.augment(pairs, **options)


def test_what_is_no_picture_is_named(pipe, pictures, tmp_path):
    with pytest.raises(InvalidValueError, match=r"^image must contain only PIL images, got 'str'"):
        pipe([str(tmp_path)], target="coat", r=0.7)
    with pytest.raises(InvalidValueError, match=r"^examples must contain only PIL images"):
        pipe(pictures[0], target="coat", examples=[np.zeros((8, 8, 3))])


@pytest.mark.parametrize("argument", ["model", "embedder"])
def test_missing_folder_is_named(tiny_sd_folder, tmp_path, argument):
    folders = {"model": tiny_sd_folder, "embedder": BACKBONE} | {argument: tmp_path / "none"}
    with pytest.raises(FileNotFoundError, match=f"^{argument} .*none") as raised:
        GeNIe.from_pretrained(folders["model"], embedder=folders["embedder"])
    assert isinstance(raised.value, MissingFileError)


def test_precision_is_a_name_or_a_type_of_torch(tiny_sd_folder, fresh):
    named = load(tiny_sd_folder, dtype="bfloat16", embedder=None)
    typed = load(tiny_sd_folder, dtype=torch.bfloat16, embedder=None)
    assert named.engine.info == typed.engine.info
    assert named.engine.info.precision != fresh.engine.info.precision


# Sources


def test_name_of_a_source_labels_the_result_and_keys_the_noise(pipe, pictures, coats):
    unnamed = pipe(pictures[0], target="coat", examples=coats, r=0.7)
    named = pipe(pictures[0], target="coat", examples=coats, r=0.7, source="shirt 1")
    again = pipe(pictures[0], target="coat", examples=coats, r=0.7, source="shirt 1")
    other = pipe(pictures[0], target="coat", examples=coats, r=0.7, source="shirt 2")
    assert (named.source, other.source) == ("shirt 1", "shirt 2")
    assert unnamed.source == image_id(pictures[0])
    assert named.key == again.key
    assert len({unnamed.key, named.key, other.key}) == 3
    assert furthest(named.image, other.image) > 1
    # the id itself as a name changes nothing
    own = pipe(pictures[0], "coat", examples=coats, r=0.7, source=image_id(pictures[0]))
    assert own.key == unnamed.key


def test_each_image_of_a_list_has_its_name_or_all_have_one(pipe, pictures):
    one_by_one = [
        pipe(image, target="coat", r=0.7, source=name)
        for image, name in zip(pictures[:2], "ab", strict=True)
    ]
    together = pipe(pictures[:2], target="coat", r=0.7, source=["a", "b"])
    assert [out.source for out in together] == ["a", "b"]
    assert [out.key for out in together] == [out.key for out in one_by_one]
    shared = pipe(pictures[:2], target="coat", r=0.7, source="a")
    assert [out.source for out in shared] == ["a", "a"]
    assert shared[0].key == together[0].key
    assert shared[1].key != together[1].key
    with pytest.raises(InvalidValueError, match=r"^source must name each of the 2 images"):
        pipe(pictures[:2], target="coat", r=0.7, source=["a"])


def test_source_of_the_target_class_needs_a_fixed_ratio(pipe, pictures, coats):
    with pytest.raises(InvalidValueError, match=r"^source must differ from `target`"):
        pipe(pictures[0], target="coat", examples=coats, source="coat")
    assert pipe(pictures[0], "coat", examples=coats, source="coat", r=0.7).source == "coat"


def test_seed_and_prompts_change_the_image(pipe, pictures):
    plain = pipe(pictures[0], target="coat", r=0.7)
    other = [
        pipe(pictures[0], target="coat", r=0.7, seed=1),
        pipe(pictures[0], target="coat", r=0.7, prompts=Prompts(superclass="garment")),
        pipe(pictures[0], target="coat", r=0.7, prompts=Prompts(negative="blur")),
    ]
    assert other[1].prompt == "a photo of a coat, a type of garment"
    assert other[2].negative_prompt == "blur"
    assert len({out.key for out in [plain, *other]}) == 4


# Stores


def test_without_a_store_images_stay_in_memory(
    tiny_sd_folder, pictures, coats, pairs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pipe, prompts = counted(load(tiny_sd_folder))
    first = pipe(pictures[0], target="coat", examples=coats)
    count = len(prompts)
    assert count == len(RATIOS)
    assert pipe(pictures[0], target="coat", examples=coats).key == first.key
    assert len(prompts) == count
    other, rendered = counted(load(tiny_sd_folder))
    other(pictures[0], target="coat", examples=coats)
    other.augment(pairs, per_class=1, r=0.7)
    assert len(rendered) == count + len(CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_with_a_store_nothing_is_rendered_twice(tiny_sd_folder, pictures, coats, pairs, tmp_path):
    first, rendered = counted(load(tiny_sd_folder, store=tmp_path / "work"))
    out = first(pictures[0], target="coat", examples=coats)
    made = first.augment(pairs, per_class=2)
    assert len(rendered) == len(RATIOS) + made.trajectories["key"].nunique()
    assert {path.suffix for path in (tmp_path / "work/store").glob("*/*")} == {".png"}
    second, again = counted(load(tiny_sd_folder, store=str(tmp_path / "work")))
    assert_equal_negatives(second(pictures[0], target="coat", examples=coats), out)
    pd.testing.assert_frame_equal(second.augment(pairs, per_class=2).members, made.members)
    assert again == []
    # a level that was not among those of the search is the only one that is new
    second(pictures[0], target="coat", examples=coats, levels=Levels(M=9))
    assert len(again) == 4


def test_classes_that_the_model_does_not_know_stop_the_call(
    tiny_sd_folder, pictures, pairs, tmp_path
):
    model = shutil.copytree(tiny_sd_folder, tmp_path / "model")
    (model / "genie.json").write_text('{"classes": ["bag", "coat"], "size": 32}')
    pipe, rendered = counted(load(model))
    with pytest.raises(ValueError, match=r"does not know 1 of the classes: 'jacket'.*allow"):
        pipe(pictures[0], target="jacket", r=0.7)
    with pytest.raises(ValueError, match=r"does not know 1 of the classes: 'ankle boot'"):
        pipe.augment(pairs, per_class=1)
    assert rendered == []
    assert pipe(pictures[0], target="coat", r=0.7).target == "coat"
    out = pipe(pictures[0], target="jacket", r=0.7, unknown_classes="allow")
    assert out.prompt == "a photo of a jacket"
    made = pipe.augment(pairs, per_class=1, r=0.7, unknown_classes="allow")
    assert set(made.metadata["label"]) == set(CLASSES)
    # names.csv may call a class by a name that the model knows
    named = pipe.augment(pairs, per_class=1, r=0.7, prompts=Prompts(names={"ankle boot": "bag"}))
    assert set(named.metadata["prompt"]) == {"a photo of a bag", "a photo of a coat"}


# Sets


@pytest.fixture(scope="module")
def made(pipe: GeNIe, pairs: Pairs) -> AugmentedSet:
    return pipe.augment(pairs, per_class=4)


def test_set_has_the_images_of_every_class_edited_from_the_other_classes(made, pairs):
    assert len(made) == 12
    assert dict(made.metadata["label"].value_counts()) == dict.fromkeys(CLASSES, 4)
    assert (made.metadata["label"] != made.metadata["source_label"]).all()
    assert list(made.metadata.columns) == list(METADATA)
    label_of = {image_id(image): name for image, name in pairs}
    assert list(made.metadata["source_label"]) == [label_of[i] for i in made.metadata["source_id"]]
    assert made.trajectories.groupby("task").size().to_dict() == {0: 12 * len(RATIOS)}
    assert made.classes == tuple(CLASSES)


def test_items_are_the_images_that_the_table_of_provenance_describes(made):
    for index, row in enumerate(made.metadata.itertuples()):
        image, label = made[index]
        assert (image.mode, image.size, label) == ("RGB", (32, 32), row.label)
        assert image_id(image) == row.image_id
    assert [label for _, label in made] == list(made.metadata["label"])
    assert list(made.metadata["file_name"]) == sorted(set(made.members["file_name"]))
    assert made[-1][0].tobytes() == made[11][0].tobytes()
    with pytest.raises(IndexError):
        made[12]


def test_call_gives_what_the_set_has_for_the_same_request(made, pairs, tiny_sd_folder):
    """The examples are the class's support images, and each image is rendered alone."""
    sources = {image_id(image): image for image, _ in pairs}
    single = load(tiny_sd_folder)
    firsts = made.metadata[made.metadata["replicate"] == 0]
    assert len(firsts) == 12
    for row in firsts.itertuples():
        examples = [image for image, name in pairs if name == row.label]
        out = single(sources[row.source_id], target=row.label, examples=examples)
        assert (out.key, out.r) == (row.key, row.r)
        assert (out.prompt, out.source, out.landmark) == (row.prompt, row.source_id, "examples")
        assert furthest(out.image, made[row.Index][0]) <= 1
        levels = made.trajectories[
            (made.trajectories["source_id"] == row.source_id)
            & (made.trajectories["target_label"] == row.label)
        ]
        np.testing.assert_allclose(out.positions, levels["position"], atol=0.02)
        np.testing.assert_allclose(out.shift_ratio, levels["shift_ratio"].iloc[0], rtol=0.05)


class Torchvision:
    """A data set of (PIL image, number) with the names of the classes, as torchvision's are."""

    def __init__(self, pairs: Pairs) -> None:
        self.classes = CLASSES[::-1]
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image, name = self.pairs[index]
        return image, self.classes.index(name)


def folder_of(pairs: Pairs, place: Path) -> Path:
    for number, (image, name) in enumerate(pairs):
        (place / name).mkdir(parents=True, exist_ok=True)
        image.save(place / name / f"{number}.png")
    return place


def hugging_face(pairs: Pairs, *, numbers: bool) -> Any:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=CLASSES) if numbers else datasets.Value("string")
    columns = {"picture": [image for image, _ in pairs], "label": [name for _, name in pairs]}
    features = datasets.Features({"picture": datasets.Image(), "label": label})
    return datasets.Dataset.from_dict(columns, features=features)


FORMS: dict[str, Callable[[Pairs, Path], Any]] = {
    "folder": lambda pairs, place: folder_of(pairs, place),
    "path as text": lambda pairs, place: str(folder_of(pairs, place)),
    "list in another order": lambda pairs, place: pairs[::-1],
    "numbers of a data set": lambda pairs, place: Torchvision(pairs),
    "datasets, numbers": lambda pairs, place: hugging_face(pairs, numbers=True),
    "datasets, texts": lambda pairs, place: hugging_face(pairs, numbers=False),
}
LABELS: dict[str, Sequence[Any]] = {
    "numbers of a data set": [2, 1, 0],
    "datasets, numbers": [0, 1, 2],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_data_set_gives_the_same_images(pipe, made, pairs, form, tmp_path):
    again = pipe.augment(FORMS[form](pairs, tmp_path / "images"), per_class=4)
    for name in ("members", "metadata", "trajectories"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(made, name))
    labels = dict(zip(CLASSES, LABELS.get(form, CLASSES), strict=True))
    given = [label for _, label in again]
    assert given == [labels[name] for _, name in made]
    assert {type(label) for label in given} == {type(next(iter(labels.values())))}


def test_numbers_need_names(pipe, pairs, made):
    numbered = [(image, CLASSES.index(name)) for image, name in pairs]
    with pytest.raises(InvalidValueError, match=r"^class_names must name the class of label 0"):
        pipe.augment(numbered)
    again = pipe.augment(numbered, per_class=4, class_names=CLASSES)
    assert list(again.metadata["key"]) == list(made.metadata["key"])
    assert sorted({label for _, label in again}) == [0, 1, 2]


def test_folder_that_does_not_exist_is_named(pipe, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^dataset .*none"):
        pipe.augment(tmp_path / "none")


def test_other_settings_make_other_sets(pipe, pairs, made):
    keys = set(made.metadata["key"])
    assert set(pipe.augment(pairs, per_class=4, seed=1).metadata["key"]).isdisjoint(keys)
    few = pipe.augment(pairs, per_class=4, r=0.7, top_k=1)
    assert few.metadata.groupby("label")["source_label"].nunique().max() == 1
    assert set(few.metadata["r"]) == {0.7}
    every = pipe.augment(pairs, per_class=1, r=0.7, sources="all")
    used = every.metadata.groupby("label")["source_id"].agg(set).to_dict()
    others = {c: {image_id(image) for image, name in pairs if name != c} for c in CLASSES}
    assert used == others


def test_only_classes_with_few_images_are_augmented_where_that_is_asked(pipe, pairs, pictures):
    many = [(image.rotate(90 * turn), "bag") for image in pictures[:6] for turn in range(4)]
    rest = [pair for pair in pairs if pair[1] != "bag"]
    made = pipe.augment(many + rest, per_class=2, r=0.7, classes="few")
    assert set(made.metadata["label"]) == {"ankle boot", "coat"}
    assert made.classes == tuple(CLASSES)


def test_filter_rejects_images_and_the_set_says_how_many(pipe, pairs, caplog):
    none = FilterSettings(rule="cosine", attempts=2, min_text=1.0, clip=ROOT / "zoo/clip")
    made = pipe.augment(pairs, per_class=1, r=0.7, filter=none)
    assert len(made) == 0
    assert (made.facts.rejected, made.facts.short) == (6, 3)
    assert "3 of 3 images were rejected in all 2 attempts" in caplog.text


# Sets on disk


@pytest.mark.parametrize("shards", [None, 5])
def test_saved_set_is_loaded_as_it_was(made, tmp_path, shards):
    made.save(tmp_path / "set", shards=shards)
    again = AugmentedSet.load(tmp_path / "set")
    assert len(again) == len(made)
    for (image, label), (other, name) in zip(again, made, strict=True):
        assert (label, image.tobytes()) == (name, other.tobytes())
    for name in ("members", "metadata", "trajectories"):
        pd.testing.assert_frame_equal(
            getattr(again, name),
            getattr(made, name).reset_index(drop=True),
            check_dtype=False,
        )
    assert (again.classes, again.soft_labels) == (made.classes, None)
    card = (tmp_path / "set/README.md").read_text()
    assert "genie" in card
    assert "tiny-sd" in card


def test_saved_set_is_an_image_folder_for_other_tools(made, tmp_path):
    datasets = pytest.importorskip("datasets")
    made.save(tmp_path / "set")
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache")
    )["train"]
    expected = {row.key: made[row.Index][0].tobytes() for row in made.metadata.itertuples()}
    assert {row["key"]: row["image"].tobytes() for row in found} == expected
    folders = {path.parent.name for path in (tmp_path / "set").glob("*/*.png")}
    assert folders == {"ankle boot", "bag", "coat"}


def test_training_loop_reads_the_set_beside_real_images(made, pairs):
    def collate(items: Pairs) -> tuple[torch.Tensor, list[str]]:
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image, _ in items]))
        return pixels, [name for _, name in items]

    both: Any = ConcatDataset([pairs, made])  # type: ignore[list-item]
    batches = list(DataLoader(both, batch_size=7, collate_fn=collate))
    assert [len(labels) for _, labels in batches] == [7, 7, 7]
    assert batches[0][0].shape == (7, 32, 32, 3)
    labels = [label for _, labels in batches for label in labels]
    assert Counter(labels) == dict.fromkeys(CLASSES, 7)


def test_set_travels_to_the_workers_of_a_loader(made, tmp_path):
    made.save(tmp_path / "files")
    made.save(tmp_path / "shards", shards=5)
    for given in (made, *(AugmentedSet.load(tmp_path / form) for form in ("files", "shards"))):
        sent = pickle.loads(pickle.dumps(given))  # noqa: S301
        assert sent[3][0].tobytes() == made[3][0].tobytes()


# Methods


def test_soft_labels_share_the_weight_between_target_and_source(pipe, pairs, tmp_path):
    made = pipe.augment(pairs, per_class=3, method="diff-mix")
    soft = made.soft_labels
    assert (soft.shape, soft.dtype) == ((9, 3), np.float32)
    for weights, row in zip(soft, made.metadata.itertuples(), strict=True):
        share = 0.8**0.8  # r to the power gamma, both as in Diff-Mix
        expected = {row.label: share, row.source_label: 1 - share}
        given = dict(zip(CLASSES, weights, strict=True))
        assert given == pytest.approx({c: expected.get(c, 0.0) for c in CLASSES})
    made.save(tmp_path)
    np.testing.assert_allclose(AugmentedSet.load(tmp_path).soft_labels, soft)
    hard = pipe.augment(pairs, per_class=3, method="diff-mix", r=1.0)
    assert hard.soft_labels is None


@pytest.mark.parametrize("method", ["none", "weak", "strong", "cutmix", "mixup"])
def test_method_that_renders_nothing_gives_an_empty_set(fresh, pairs, method, tmp_path):
    pipe, rendered = counted(fresh)
    made = pipe.augment(pairs, method=method)
    assert (len(made), list(made), rendered) == (0, [], [])
    assert made.soft_labels is None
    made.save(tmp_path)
    assert len(AugmentedSet.load(tmp_path)) == 0


def test_tokens_are_learned_in_memory_and_saved_with_the_set(fresh, pairs, tmp_path):
    made = fresh.augment(pairs, per_class=1, method="da-fusion", inversion_steps=2)
    assert len(made) == 3
    assert (made.metadata["label"] == made.metadata["source_label"]).all()
    words = made.metadata["prompt"].str.extract(r"^a photo of a <(token-[0-9a-f]+)>$")[0]
    assert words.nunique() == 3
    made.save(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.safetensors")} == set(words)
    assert len(AugmentedSet.load(tmp_path)) == 3


def test_tokens_of_a_store_are_learned_once(tiny_sd_folder, pairs, tmp_path):
    options = {"per_class": 1, "method": "da-fusion", "inversion_steps": 2}
    first = load(tiny_sd_folder, store=tmp_path).augment(pairs, **options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").iterdir()}
    second, rendered = counted(load(tiny_sd_folder, store=tmp_path))
    again = second.augment(pairs, **options)
    pd.testing.assert_frame_equal(again.metadata, first.metadata)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").iterdir()} == before
    assert rendered == []


@pytest.mark.parametrize("method", ["img2img", "txt2img", "diffusemix"])
def test_other_methods_are_called_the_same_way(pipe, pairs, method):
    made = pipe.augment(pairs, per_class=2, method=method)
    assert dict(made.metadata["label"].value_counts()) == dict.fromkeys(CLASSES, 2)
    assert set(made.metadata["method"]) == {method}


# The pipeline


def run(stage: ModuleType, root: Path) -> None:
    arguments = ["--params", str(root / "params.yaml"), "--root", str(root)]
    runner = CliRunner(env={"DVC_ROOT": str(root)})
    result = runner.invoke(stage.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def project(photos: Path, tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stages have made a set of two tasks."""
    root = tmp_path_factory.mktemp("project")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"] |= {"path": str(photos), "tasks": 2, "shots": 3}
    params["augment"] |= {"per_class": 3}
    params["generator"] |= {"model": str(tiny_sd_folder)}
    params["generator"] |= {"steps": 6, "guidance_scale": 3.0, "batch_size": 1, "compile": False}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in (prepare, train_baseline, select_sources, generate):
        run(stage, root)
    return root


@pytest.mark.parametrize("task", [0, 1])
def test_set_of_a_support_set_is_what_the_pipeline_makes_of_that_task(
    project, task, tiny_sd_folder, tmp_path
):
    """Nothing is shared but the images; each is rendered alone, so that rounding is the same."""
    support = read_support(project / "data/prepared/tasks.csv")
    images = read_images(project / "data/prepared/support").set_index("image_id")["png"]
    rows = support[support["task"] == task]
    dataset = [
        (decode_image(images[i]), name) for i, name in zip(rows.image_id, rows.label, strict=True)
    ]
    pipe = load(tiny_sd_folder, settings=replace(QUICK, batch_size=1))
    pipe.augment(dataset, per_class=3).save(tmp_path)
    whole = project / "data/augmented"
    for name in ("members.csv", "trajectories.parquet"):
        read = pd.read_csv if name.endswith("csv") else pd.read_parquet
        expected, own = read(whole / name), read(tmp_path / name)
        expected = expected[expected["task"] == task].drop(columns="task")
        pd.testing.assert_frame_equal(
            own.drop(columns="task"), expected.reset_index(drop=True), check_exact=True
        )
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/*.png"))
    members = pd.read_csv(whole / "members.csv")
    assert {str(f) for f in files} == set(members.loc[members["task"] == task, "file_name"])
    assert len(files) >= 6
    for file in files:
        assert (tmp_path / file).read_bytes() == (whole / file).read_bytes()


def test_tasks_of_the_pipeline_differ(project):
    members = pd.read_csv(project / "data/augmented/members.csv")
    first, second = (set(rows["key"]) for _, rows in members.groupby("task"))
    assert first.isdisjoint(second)


# Defaults


def defaults(call: Callable[..., Any]) -> dict[str, Any]:
    found = inspect.signature(call).parameters.values()
    return {p.name: p.default for p in found if p.default is not inspect.Parameter.empty}


def test_defaults_of_the_calls_are_those_of_the_parameter_file():
    params = read_params(ROOT / "params.yaml")
    noise, chosen = params.noise, params.filter
    levels = Levels(noise.low, noise.high, noise.M, noise.min_position, noise.search)
    names = read_names(ROOT / params.prompt.folder / "names.csv")
    templates = (params.prompt.template,)
    prompts = Prompts(templates, params.prompt.superclass, params.prompt.negative, names)
    shared = {
        "r": noise.r,
        "levels": levels,
        "prompts": prompts,
        "seed": params.seed,
        "unknown_classes": params.generator.unknown_classes,
    }
    one = defaults(GeNIe.__call__)
    assert one == shared | {"source": None, "examples": ()}
    made = defaults(GeNIe.augment)
    training = made.pop("training")
    # the CLIP of the rules clip and cosine is a folder, which a call has to name
    rule = FilterSettings(chosen.rule, chosen.attempts, chosen.min_text, chosen.min_image, None)
    assert made == shared | {
        "per_class": params.augment.per_class,
        "sources": params.sources.strategy,
        "method": params.method,
        "top_k": params.sources.top_k,
        "classes": params.augment.classes,
        "filter": rule,
        "class_names": None,
        "inversion_steps": params.inversion.steps,
    }
    for name in ("head", "start", "steps", "batch_size", "learning_rate", "loss"):
        assert getattr(training, name) == getattr(params.classifier, name), name
    loaded = defaults(GeNIe.from_pretrained)
    given = params.generator
    assert loaded["settings"] == RenderSettings(
        given.steps, given.guidance_scale, given.batch_size, given.compile, given.dtype
    )
    absent = ("embedder", "device", "dtype", "store", "cluster", "remote_store")
    assert [loaded[name] for name in absent] == [None] * 6


def test_png_bytes_of_a_set_are_those_of_its_pixels(made):
    row = made.metadata.iloc[0]
    assert made.png_of(row["file_name"]) == encode_png(made[0][0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": 3}, "target must be the name of a class, got 3"),
        ({"target": " "}, "target must be the name of a class"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"examples": ["coat.png"]}, "examples must contain only PIL images, got 'str'"),
        ({"unknown_classes": "maybe"}, "unknown_classes must be one of stop, allow"),
        ({"source": ["a", "b"]}, "source must name each of the 1 images"),
        ({"source": "coat"}, "source must differ from `target`"),
    ],
)
def test_value_out_of_range_names_its_argument(pipe, changes, message):
    with pytest.raises(InvalidValueError, match=message) as error:
        pipe(Image.new("RGB", (32, 32)), **({"target": "coat"} | changes))
    assert error.value.argument in changes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device must be a device that torch can use here"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16"),
        ({"store": "README.md"}, "store must be a folder, got 'README.md'"),
    ],
)
def test_option_that_cannot_be_used_is_named_before_anything_is_loaded(options, message):
    with pytest.raises(InvalidValueError, match=message) as error:
        GeNIe.from_pretrained("nowhere", **options)
    assert [error.value.argument] == list(options)


def test_settings_of_rendering_are_checked():
    for values in ({"steps": 0}, {"guidance_scale": -1.0}, {"batch_size": 0}):
        with pytest.raises(InvalidValueError, match="must be at least") as error:
            RenderSettings(**values)
        assert [error.value.argument] == list(values)


def test_number_of_source_classes_is_at_least_one(pipe):
    with pytest.raises(InvalidValueError, match="top_k must be at least 1, got 0"):
        pipe.augment([], top_k=0)


def test_one_example_need_not_be_a_list_and_a_repr_is_one_line(pipe, made):
    image = Image.new("RGB", (32, 32), "red")
    one, listed = (
        pipe(image, "coat", examples=examples, r=0.5)
        for examples in (Image.new("RGB", (32, 32)), [Image.new("RGB", (32, 32))])
    )
    assert one.key == listed.key
    assert "\n" not in repr(pipe) + repr(made)


def test_method_that_renders_nothing_warns_of_its_empty_set(pipe, photos, caplog):
    made = pipe.augment(photos, method="strong", unknown_classes="allow")
    assert len(made) == 0
    assert "strong renders no images" in caplog.text


def test_class_names_with_a_folder_are_refused(pipe, photos):
    with pytest.raises(InvalidValueError, match="class_names must be left out with a path"):
        pipe.augment(photos, class_names=["a", "b", "c"])


def test_levels_that_are_no_value_of_levels_are_named(pipe, photos):
    with pytest.raises(InvalidValueError, match="levels and `prompts` must be values"):
        pipe.augment(photos, levels=[0.5, 0.6])


def test_loading_shows_no_bars_and_leaves_those_of_others_alone(tiny_sd_folder, capfd):
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    libraries = (diffusers, transformers)
    before = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.enable_progress_bar()
    GeNIe.from_pretrained(tiny_sd_folder, embedder="zoo/backbone")
    assert "Loading" not in capfd.readouterr().err
    assert all(library.is_progress_bar_enabled() for library in libraries)
    for library, shown in zip(libraries, before, strict=True):
        if not shown:
            library.disable_progress_bar()
