from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genie.data.augmented_set import image_reader, members_of, read_set, write_set
from genie.data.images import decode_image, encode_png, image_id
from genie.errors import GenieError
from genie.tables import MEMBERS, METADATA, TRAJECTORIES, read_table

PROVENANCE = {
    "method": "genie",
    "guidance_scale": 3.0,
    "scheduler": "PNDMScheduler",
    "generator": "models/007",
    "fingerprint": "abc",
}
TABLES = {"metadata.csv", "members.csv", "trajectories.parquet"}
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
        "called_target": chosen,
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


def write(folder: Path, *, shard: int | None = None) -> pd.DataFrame:
    return write_set(
        trajectories(),
        folder,
        provenance=PROVENANCE,
        png_of=lambda key: encode_png(PICTURES[key]),
        shard=shard,
    )


@pytest.fixture
def written(tmp_path):
    return tmp_path, write(tmp_path)


def file_names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_members_are_the_chosen_rows_with_a_file_in_the_folder_of_their_class():
    members = members_of(trajectories())
    assert list(members["file_name"]) == ["T-shirt%2Ftop/b.png", "coat/c.png", "coat/c.png"]
    assert list(members["label"]) == ["T-shirt/top", "coat", "coat"]
    assert list(members["task"]) == [0, 0, 1]


def test_set_holds_the_chosen_images_alone_each_once(written):
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


@pytest.mark.parametrize("shard", [None, 1, 2])
def test_images_of_the_set_are_read_in_order_of_their_names(tmp_path, shard):
    folder, members = tmp_path, write(tmp_path, shard=shard)
    files, pictures = read_set(folder, members)
    assert files == ["T-shirt%2Ftop/b.png", "coat/c.png"]
    assert [p.tobytes() for p in pictures] == [PICTURES[key].tobytes() for key in "bc"]
    _, of_one_task = read_set(folder, members[members["task"] == 1])
    assert [p.tobytes() for p in of_one_task] == [PICTURES["c"].tobytes()]


def test_tables_are_the_same_for_files_and_shards(tmp_path):
    for name, shard in (("files", None), ("shards", 1)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, shard=shard)
    shards = {"images-00000.parquet", "images-00001.parquet"}
    assert file_names(tmp_path / "shards") == TABLES | shards
    for name in TABLES:
        same = [(tmp_path / form / name).read_bytes() for form in ("files", "shards")]
        assert same[0] == same[1]


@pytest.mark.parametrize(("before", "after"), [(None, 1), (1, None), (1, 2), (None, None)])
def test_set_that_is_written_again_leaves_nothing_of_the_earlier_form(tmp_path, before, after):
    for name, forms in (("twice", (before, after)), ("once", (after,))):
        (tmp_path / name).mkdir()
        for shard in forms:
            (tmp_path / name / "gone").mkdir(exist_ok=True)
            if shard is None:  # an image that the set no longer has
                (tmp_path / name / "gone/x.png").write_bytes(b"")
            write(tmp_path / name, shard=shard)
    assert file_names(tmp_path / "twice") == file_names(tmp_path / "once")
    assert not (tmp_path / "twice/gone/x.png").exists()


def test_set_that_is_written_again_leaves_files_alone_that_are_linked_to_it(written):
    folder, _ = written
    linked = folder / "cached"
    linked.hardlink_to(folder / "coat/c.png")
    write(folder)
    assert not linked.samefile(folder / "coat/c.png")


@pytest.mark.parametrize("name", ["coat/missing.png", "../coat/c.png"])
@pytest.mark.parametrize("shard", [None, 1])
def test_image_that_the_set_lacks_is_named(tmp_path, name, shard):
    write(tmp_path, shard=shard)
    read = image_reader(tmp_path)
    with pytest.raises(GenieError, match=name.replace(".", r"\.")):
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
    nothing = trajectories().iloc[:0]
    members = write_set(nothing, tmp_path, provenance=PROVENANCE, png_of=str.encode)
    files, pictures = read_set(tmp_path, members)
    assert (files, len(pictures)) == ([], 0)
    assert read_table(tmp_path / "metadata.csv", METADATA).empty
    assert read_table(tmp_path / "members.csv", MEMBERS).empty
