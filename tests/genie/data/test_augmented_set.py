import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from genie.core.errors import InvalidValueError, MissingFileError
from genie.core.tables import MEMBERS, METADATA, TRAJECTORIES, read_table
from genie.data.augmented_set import (
    AugmentedSet,
    Provenance,
    image_reader,
    read_set,
    set_of,
)
from genie.data.card import SetFacts
from genie.data.images import decode_image, encode_png, image_id
from genie.data.shards import shard_files

PROVENANCE = Provenance(
    method="genie",
    guidance_scale=3.0,
    scheduler="PNDMScheduler",
    generator="models/007",
    fingerprint="abc",
)
CLASSES = ("T-shirt/top", "bag", "coat")
TABLES = {"metadata.csv", "members.csv", "trajectories.parquet"}
CARD = "README.md"
PICTURES = {key: Image.new("RGB", (8, 8), (40 * i, 90, 0)) for i, key in enumerate("abcd")}


def row(key: str, target: str, *, task: int = 0, level: int = 0, chosen: bool = True) -> dict:
    return {
        "task": task,
        "target_label": target,
        "source_label": "bag",
        "source_id": "image of a bag",
        "replicate": 0,
        "level": level,
        "r": 0.5 + 0.1 * level,
        "key": key,
        "steps": 15,
        "position": 0.1 * level,
        "shift_ratio": 1.5,
        "chosen": chosen,
        "predicted_target": chosen,
        "embedding": np.ones(3, np.float32),
        "prompt": f"a photo of a {target}",
        "negative_prompt": "",
        "seed": 3,
        "support_id": "",
        "target_weight": 1.0,
    }


def trajectories() -> pd.DataFrame:
    rows = [
        row("a", "T-shirt/top", chosen=False),
        row("b", "T-shirt/top", level=1),
        row("c", "coat"),
        row("c", "coat", task=1),  # two tasks share an image
    ]
    return pd.DataFrame(rows)


def png(key: str) -> bytes:
    return encode_png(PICTURES[key])


def in_memory(**changes: object) -> AugmentedSet:
    """The set of `trajectories`, with other values in its columns."""
    levels = trajectories().assign(**changes)
    return set_of(levels, PROVENANCE, png_of=png, classes=CLASSES)


def write(folder: Path, *, shards: int | None = None) -> pd.DataFrame:
    made = in_memory()
    made.save(folder, shards=shards)
    return made.members


@pytest.fixture
def written(tmp_path):
    return tmp_path, write(tmp_path)


def file_names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_members_are_the_chosen_rows_with_a_file_in_the_folder_of_their_class():
    members = in_memory().members
    assert list(members["file_name"]) == ["T-shirt%2Ftop/b.png", "coat/c.png", "coat/c.png"]
    assert list(members["label"]) == ["T-shirt/top", "coat", "coat"]
    assert list(members["task"]) == [0, 0, 1]


def test_set_has_only_the_chosen_images_each_once(written):
    folder, _ = written
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    assert files == ["T-shirt%2Ftop/b.png", "coat/c.png"]
    metadata = read_table(folder / "metadata.csv", METADATA)
    assert list(metadata["file_name"]) == files
    assert list(metadata["image_id"]) == [image_id(PICTURES[key]) for key in "bc"]
    assert set(metadata["generator"]) == {"models/007"}
    for name, key in zip(files, "bc", strict=True):
        own = decode_image((folder / name).read_bytes())
        assert own.tobytes() == PICTURES[key].tobytes()


def test_tables_of_the_set_are_read_back_as_they_were(written):
    folder, members = written
    expected = members.reset_index(drop=True)[list(MEMBERS)]
    pd.testing.assert_frame_equal(
        read_table(folder / "members.csv", MEMBERS), expected, check_dtype=False
    )
    levels = read_table(folder / "trajectories.parquet", TRAJECTORIES)
    assert list(levels["key"]) == list("abcc")
    assert list(levels["chosen"]) == [False, True, True, True]
    assert np.stack(list(levels["embedding"])).shape == (4, 3)


@pytest.mark.parametrize("shards", [None, 1, 2])
def test_images_of_the_set_are_read_in_order_of_their_names(tmp_path, shards):
    folder, members = tmp_path, write(tmp_path, shards=shards)
    files, pictures = read_set(folder, members)
    assert files == ["T-shirt%2Ftop/b.png", "coat/c.png"]
    assert [p.tobytes() for p in pictures] == [PICTURES[key].tobytes() for key in "bc"]
    _, of_one_task = read_set(folder, members[members["task"] == 1])
    assert [p.tobytes() for p in of_one_task] == [PICTURES["c"].tobytes()]


def test_tables_are_the_same_for_files_and_shards(tmp_path):
    for name, shards in (("files", None), ("shards", 1)):
        write(tmp_path / name, shards=shards)
    parts = {"images-00000.parquet", "images-00001.parquet"}
    assert file_names(tmp_path / "shards") == TABLES | parts | {CARD}
    for name in TABLES:
        same = [(tmp_path / form / name).read_bytes() for form in ("files", "shards")]
        assert same[0] == same[1]


@pytest.mark.parametrize(("before", "after"), [(None, 1), (1, None), (1, 2), (None, None)])
def test_saving_again_removes_images_of_the_earlier_format(tmp_path, before, after):
    for name, forms in (("twice", (before, after)), ("once", (after,))):
        for shards in forms:
            (tmp_path / name / "gone").mkdir(parents=True, exist_ok=True)
            if shards is None:  # an image that the set no longer has
                (tmp_path / name / f"gone/{'0' * 64}.png").write_bytes(b"")
            write(tmp_path / name, shards=shards)
    assert file_names(tmp_path / "twice") == file_names(tmp_path / "once")
    assert not list((tmp_path / "twice").glob("gone/*"))


def test_saving_again_does_not_change_hard_links_to_the_set(written):
    folder, _ = written
    linked = folder.parent / "cached"
    linked.hardlink_to(folder / "coat/c.png")
    write(folder)
    assert not linked.samefile(folder / "coat/c.png")


@pytest.mark.parametrize("name", ["coat/missing.png", "../coat/c.png"])
@pytest.mark.parametrize("shards", [None, 1])
def test_image_that_the_set_lacks_is_named(tmp_path, name, shards):
    write(tmp_path, shards=shards)
    read = image_reader(tmp_path)
    with pytest.raises(InvalidValueError, match=name.replace(".", r"\.")):
        read(name)


def test_set_is_an_image_folder_of_hugging_face(written, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    folder, _ = written
    cache = str(tmp_path_factory.mktemp("cache"))
    found = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=cache)["train"]
    by_key = {row["key"]: row for row in found}
    assert sorted(by_key) == ["b", "c"]
    for key, own in by_key.items():
        assert own["image"].convert("RGB").tobytes() == PICTURES[key].tobytes()
    assert by_key["b"]["label"] == "T-shirt/top"
    assert by_key["c"]["prompt"] == "a photo of a coat"


def test_set_without_images_has_tables_without_rows(tmp_path):
    nothing = set_of(trajectories().iloc[:0], PROVENANCE, png_of=str.encode, classes=CLASSES)
    nothing.save(tmp_path)
    files, pictures = read_set(tmp_path, nothing.members)
    assert (files, len(pictures)) == ([], 0)
    assert read_table(tmp_path / "metadata.csv", METADATA).empty
    assert read_table(tmp_path / "members.csv", MEMBERS).empty
    assert "The method generates no images." in (tmp_path / CARD).read_text()
    assert len(AugmentedSet.load(tmp_path)) == 0
    assert nothing.soft_labels is None


# A map-style data set


def test_items_are_images_with_their_class_names_in_order_of_the_metadata():
    made = in_memory()
    assert len(made) == 2
    assert [(image.mode, image.tobytes(), label) for image, label in made] == [
        ("RGB", PICTURES["b"].tobytes(), "T-shirt/top"),
        ("RGB", PICTURES["c"].tobytes(), "coat"),
    ]
    image, label = made[-1]
    assert (image.tobytes(), label) == (PICTURES["c"].tobytes(), "coat")
    assert made[np.int64(0)][1] == "T-shirt/top"
    assert made.classes == CLASSES


@pytest.mark.parametrize("index", [2, -3])
def test_index_beyond_the_set_is_an_index_error(index):
    with pytest.raises(IndexError):
        in_memory()[index]


@pytest.mark.parametrize("index", [slice(1), "coat", [0]])
def test_only_integers_are_indices(index):
    with pytest.raises(TypeError):
        in_memory()[index]


def test_labels_are_those_of_the_data_set_that_was_augmented():
    made = replace(in_memory(), label_of={"coat": 4})
    assert [label for _, label in made] == ["T-shirt/top", 4]


def test_data_loader_of_torch_batches_the_set():
    loader = torch.utils.data.DataLoader(in_memory(), batch_size=2, collate_fn=list)
    (batch,) = loader
    assert [label for _, label in batch] == ["T-shirt/top", "coat"]


def test_hard_labels_have_no_soft_labels():
    assert in_memory().soft_labels is None


def test_soft_labels_give_the_remaining_weight_to_the_source_class():
    soft = in_memory(target_weight=[1.0, 0.75, 0.25, 0.25]).soft_labels
    assert soft.dtype == np.float32
    assert soft.tolist() == [[0.75, 0.25, 0], [0, 0.75, 0.25]]


def test_image_without_a_source_has_a_hard_row_among_soft_labels():
    made = in_memory(target_weight=[1.0, 1.0, 0.5, 0.5], source_label=[None, None, "bag", "bag"])
    assert made.soft_labels.tolist() == [[1, 0, 0], [0, 0.5, 0.5]]


def test_source_of_the_same_class_keeps_the_whole_weight():
    made = in_memory(target_weight=0.5, source_label=["T-shirt/top"] * 2 + ["coat"] * 2)
    assert made.soft_labels.tolist() == [[1, 0, 0], [0, 0, 1]]


# Saved and loaded


def assert_equal(loaded: AugmentedSet, made: AugmentedSet) -> None:
    """Compare tables and pixels."""
    for name in ("metadata", "members", "trajectories"):
        tables = [getattr(own, name).reset_index(drop=True) for own in (loaded, made)]
        vectors = [t.pop("embedding").to_list() if name == "trajectories" else [] for t in tables]
        pd.testing.assert_frame_equal(*tables, check_dtype=False)
        assert np.array_equal(*vectors)
    assert loaded.classes == made.classes
    pairs = zip(loaded, made, strict=True)
    assert all(a.tobytes() == b.tobytes() and x == y for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("shards", [None, 1, 5])
@pytest.mark.parametrize("weight", [1.0, 0.75])
def test_loaded_set_equals_the_saved_one(tmp_path, shards, weight):
    made = in_memory(target_weight=weight)
    made.save(str(tmp_path / "new/set"), shards=shards)
    loaded = AugmentedSet.load(str(tmp_path / "new/set"))
    assert_equal(loaded, made)
    soft = made.soft_labels
    assert loaded.soft_labels is None if soft is None else (loaded.soft_labels == soft).all()
    assert len(shard_files(tmp_path / "new/set")) == {None: 0, 1: 2, 5: 1}[shards]


def test_loaded_set_is_saved_again_in_another_form_with_the_same_card(tmp_path):
    made = replace(in_memory(), facts=SetFacts(method="genie"))
    made.save(tmp_path / "a")
    AugmentedSet.load(tmp_path / "a").save(tmp_path / "b", shards=1)
    AugmentedSet.load(tmp_path / "b").save(tmp_path / "c")
    assert_equal(AugmentedSet.load(tmp_path / "b"), made)
    assert file_names(tmp_path / "c") == file_names(tmp_path / "a")
    for name in file_names(tmp_path / "a"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


@pytest.mark.parametrize("shards", [None, 1])
def test_loaded_set_is_not_saved_over_its_own_images(tmp_path, shards):
    in_memory().save(tmp_path)
    loaded = AugmentedSet.load(tmp_path)
    with pytest.raises(InvalidValueError, match="folder must not be the folder that the set was"):
        loaded.save(tmp_path / "x/..", shards=shards)
    assert_equal(AugmentedSet.load(tmp_path), in_memory())


@pytest.mark.parametrize("shards", [None, 1])
def test_loaded_set_can_be_sent_to_another_process(tmp_path, shards):
    in_memory().save(tmp_path, shards=shards)
    loaded = AugmentedSet.load(tmp_path)
    assert_equal(pickle.loads(pickle.dumps(loaded)), loaded)  # noqa: S301
    assert_equal(pickle.loads(pickle.dumps(in_memory())), in_memory())  # noqa: S301


def test_files_that_belong_to_the_set_are_copied_beside_its_images(tmp_path):
    token = tmp_path / "coat.safetensors"
    token.write_bytes(b"token")
    replace(in_memory(), copied=[token]).save(tmp_path / "set")
    assert (tmp_path / "set/coat.safetensors").read_bytes() == b"token"


def test_facts_of_the_set_are_in_its_card(tmp_path):
    replace(in_memory(), facts=SetFacts("genie", rejected=3, short=1)).save(tmp_path)
    text = (tmp_path / CARD).read_text()
    assert "A filter rejected 3 images; 1 requested images are missing." in text
    assert "# Images generated by genie" in text


def test_set_without_trajectories_is_loaded_with_an_empty_table(written):
    folder, _ = written
    (folder / "trajectories.parquet").unlink()
    loaded = AugmentedSet.load(folder)
    assert loaded.trajectories.empty
    assert list(loaded.trajectories.columns) == list(TRAJECTORIES)
    assert len(loaded) == 2
    loaded.save(folder / "again")
    assert "| all | 2 | - | |" in (folder / "again" / CARD).read_text()


def test_set_of_version_0_1_is_loaded(written):
    folder, _ = written
    path = folder / "trajectories.parquet"
    old = pd.read_parquet(path).rename(columns={"predicted_target": "called_target"})
    old.to_parquet(path)
    assert_equal(AugmentedSet.load(folder), in_memory())


@pytest.mark.parametrize("name", ["metadata.csv", "members.csv"])
def test_set_without_a_table_is_named(written, name):
    folder, _ = written
    (folder / name).unlink()
    with pytest.raises(MissingFileError, match=f"{name} does not exist|has no {name}"):
        AugmentedSet.load(folder)


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_damaged_image_of_a_loaded_set_is_named_with_the_remedy(written, content):
    folder, _ = written
    loaded, path = AugmentedSet.load(folder), folder / "coat/c.png"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InvalidValueError, match=r"coat/c\.png must be .*`genie verify --repair`"):
        loaded[1]
    assert loaded[0][1] == "T-shirt/top"


@pytest.mark.parametrize("name", ["coat/holiday.png", "notes.txt", "deep/er/x.png"])
def test_folder_with_other_files_is_refused_and_left_unchanged(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"mine")
    with pytest.raises(InvalidValueError, match=name) as error:
        in_memory().save(tmp_path)
    assert error.value.argument == "folder"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [file]
    assert file.read_bytes() == b"mine"


def test_folder_of_real_images_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "coat.png")
    with pytest.raises(InvalidValueError, match=r"coat\.png; choose another folder"):
        in_memory().save(tmp_path)
    assert (tmp_path / "coat.png").is_file()


def test_hidden_system_files_are_ignored(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"")
    in_memory().save(tmp_path)
    in_memory().save(tmp_path)
    assert len(AugmentedSet.load(tmp_path)) == len(in_memory())


def test_labels_that_are_numbers_stay_numbers_on_disk(tmp_path):
    numbers = {name: number for number, name in enumerate(CLASSES)}
    made = replace(in_memory(), label_of=numbers)
    made.save(tmp_path / "numbers")
    loaded = AugmentedSet.load(tmp_path / "numbers")
    assert [label for _, label in loaded] == [label for _, label in made]
    assert loaded.classes == tuple(sorted(CLASSES))
    in_memory().save(tmp_path / "numbers")  # names again
    assert AugmentedSet.load(tmp_path / "numbers").label_of == {}


def test_images_go_through_a_transform(tmp_path):
    in_memory().save(tmp_path)
    shown = AugmentedSet.load(tmp_path).with_transform(lambda image: image.size)
    assert {image for image, _ in shown} == {(8, 8)}
    assert [label for _, label in shown] == [label for _, label in in_memory()]
