import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo
from PIL import Image

from genie.core.errors import InvalidValueError
from genie.data.folders import data_files, find_splits, image_files, linked_folders, split_of
from genie.data.readers import open_square, read_class_names, read_pools
from tests.scratch import ROOT


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((16, 16), Image.Resampling.BICUBIC)


def folders(root: Path, *names: str, count: int = 2) -> Path:
    """A data folder with `count` images in each of the named folders; no two are equal."""
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(len(list(root.rglob("*.png")))).save(root / name / f"{i}.png")
    return root


def split(*names: str) -> list[str]:
    return [f"{name}/{label}" for name in names for label in ("cat", "dog")]


def counts(path: Path) -> list[dict[str, int] | None]:
    """The number of images by class in the support and query pools."""
    pools = read_pools(path)
    return [None if pool is None else pool["label"].value_counts().to_dict() for pool in pools]


BOTH = {"cat": 2, "dog": 2}


# Splits


@pytest.mark.parametrize(
    ("train", "query"),
    [
        ("Train", "Test"),
        ("Training", "Testing"),
        ("seg_train", "seg_test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train2017", "val2017"),
        ("train_val", "test"),
        ("trainset", "testset"),
        ("train", "validation"),
        ("TRAIN", "valid"),
        ("train", "dev"),
    ],
)
def test_folders_named_as_splits_are_splits(tmp_path, train, query):
    folders(tmp_path, *split(train, query))
    assert counts(tmp_path) == [BOTH, BOTH]
    assert read_class_names(tmp_path) == ["cat", "dog"]


@pytest.mark.parametrize(
    "name", ["train", "training", "seg_train", "train2017", "validation", "val", "valid", "dev",
             "val2017", "test", "testing", "seg-test", "eval", "evaluation.1"]
)  # fmt: skip
def test_splits_have_the_names_that_datasets_knows(tmp_path, name):
    data_files = pytest.importorskip("datasets.data_files")
    folders(tmp_path, f"{name}/cat")
    assert list(data_files.get_data_patterns(str(tmp_path))) == [split_of(name)]


@pytest.mark.parametrize("name", ["cat", "trainer", "contest", "valley", "device", "train_test"])
def test_other_names_are_of_no_split(name):
    assert split_of(name) is None


def test_validation_images_that_are_left_out_are_counted(tmp_path, caplog):
    folders(tmp_path, *split("train", "val", "test"))
    assert counts(tmp_path) == [BOTH, BOTH]
    assert f"left out the validation split {tmp_path}/val (4 images)" in caplog.text


def test_use_of_the_validation_split_for_queries_is_said(tmp_path, caplog):
    folders(tmp_path, *split("train", "val"))
    assert find_splits(tmp_path).query == tmp_path / "val"
    counts(tmp_path)
    assert f"no test split, so queries are from {tmp_path}/val (4 images)" in caplog.text


def test_test_split_without_classes_is_left_out_with_a_warning(tmp_path, caplog):
    folders(tmp_path, *split("train"), "test")
    assert counts(tmp_path) == [BOTH, None]
    assert f"left out 2 images in {tmp_path}/test, which has no class folders" in caplog.text


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (split("val", "test"), "has test/, val/ without train/; rename one to train"),
        (split("train_1", "train_2", "test"), "several folders for the split train: train_1/, tr"),
        ([*split("train"), "bus"], "has bus/ beside the splits train/; move"),
        ([*split("seg_train", "seg_test"), "seg_pred"], "has seg_pred/ beside the splits seg_test"),
        (["cat", "dog", *split("test")], "has cat/, dog/ beside the splits test/"),
        (["train", "test"], r"test/, train/ in \S+ have images without classes; sort them"),
        (["train", "test", "sample"], r"have images without classes"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_named(tmp_path, names, words):
    folders(tmp_path, *names)
    for read in (read_pools, read_class_names):
        with pytest.raises(InvalidValueError, match=f"^path must have class folders.*{words}"):
            read(tmp_path)


@pytest.mark.parametrize(
    "names", [("train", "bus"), ("freight train/2019", "tram/2019"), ("test tube", "bus", "val")]
)
def test_classes_may_be_called_like_splits(tmp_path, names):
    folders(tmp_path, *names)
    assert read_class_names(tmp_path) == sorted(name.split("/")[0] for name in names)
    assert counts(tmp_path)[1] is None


@pytest.mark.parametrize("names", [split("fold_a", "fold_b"), ["cat/train", "cat/test", "dog/train", "dog/test"]])  # fmt: skip  # noqa: E501
def test_classes_with_the_same_folders_in_each_are_named(tmp_path, caplog, names):
    counts(folders(tmp_path, *names))
    assert "if these are the classes or the splits, move them up" in caplog.text


# Labels in a table


def labelled(folder: Path, labels: dict[str, str]) -> None:
    rows = "".join(f"{file},{label}\n" for file, label in labels.items())
    (folder / "metadata.csv").write_text(f"file_name,label\n{rows}")


def test_flat_splits_have_the_labels_of_their_tables(tmp_path):
    folders(tmp_path, "train", "test", count=4)
    for part in ("train", "test"):
        labelled(tmp_path / part, {f"{i}.png": "cat" if i % 2 else "dog" for i in range(4)})
    assert counts(tmp_path) == [BOTH, BOTH]
    assert read_class_names(tmp_path) == ["cat", "dog"]


def test_table_of_json_lines_names_files_in_a_folder(tmp_path):
    folders(tmp_path, "images", count=4)
    rows = [f'{{"file_name": "images/{i}.png", "label": {i % 2}}}\n' for i in range(4)]
    (tmp_path / "metadata.jsonl").write_text("".join(rows))
    assert counts(tmp_path) == [{"0": 2, "1": 2}, None]


def test_images_that_the_table_does_not_list_are_counted(tmp_path, caplog):
    folders(tmp_path, "images", count=4)
    labelled(tmp_path, {"images/0.png": "cat", "images/1.png": "dog"})
    assert counts(tmp_path) == [{"cat": 1, "dog": 1}, None]
    assert f"left out 2 images without a class, the first is {tmp_path}/images/2.png" in caplog.text


def test_table_that_agrees_with_the_folders_changes_nothing(tmp_path):
    folders(tmp_path, "cat", "dog")
    expected = counts(tmp_path)
    labelled(tmp_path, {"cat/0.png": "0", "dog/0.png": "1"})
    assert counts(tmp_path) == expected
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/0.png,a cat\n")
    assert counts(tmp_path) == expected


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("cat/0.png,a\ncat/1.png,b\ndog/0.png,b\n", "other labels than the folders"),
        ("cat/0.png,\n", "label of cat/0.png in .*metadata.csv is ''"),
        ("../cat/0.png,a\n", "must name files inside"),
        ("\xff", "must have a readable table of labels"),
    ],
)
def test_table_that_cannot_be_used_is_named(tmp_path, rows, words):
    folders(tmp_path, "cat", "dog")
    (tmp_path / "metadata.csv").write_bytes(b"file_name,label\n" + rows.encode("latin-1"))
    with pytest.raises(InvalidValueError, match=words):
        read_pools(tmp_path)


# Links


def test_links_to_folders_are_followed_at_any_depth(tmp_path):
    elsewhere = folders(tmp_path / "elsewhere", "fox", "deep")
    (elsewhere / "fox/more").symlink_to("../deep")
    data = folders(tmp_path / "data", "cat", "dog/a", count=3)
    (data / "fox").symlink_to(elsewhere / "fox")
    (data / "dog/b").symlink_to("../../elsewhere/deep")
    (tmp_path / "link").symlink_to(data)
    assert [len(image_files(data / c)) for c in ("cat", "dog", "fox")] == [3, 5, 4]
    assert [p.name for p in linked_folders(data)] == ["b", "fox"]
    assert read_class_names(tmp_path / "link") == ["cat", "dog", "fox"]
    assert len(image_files(tmp_path / "link")) == 12


@pytest.mark.parametrize("place", ["gone", "cat/gone", "cat/v1.5"])
def test_link_to_a_folder_that_is_gone_is_named(tmp_path, place):
    folders(tmp_path, "cat", "dog")
    (tmp_path / place).symlink_to("/no/where")
    with pytest.raises(InvalidValueError, match=rf"targets exist, but \S+{place} links to /no/whe"):
        read_pools(tmp_path)


def test_image_link_without_a_target_is_an_image_that_cannot_be_read(tmp_path):
    folders(tmp_path, "cat", "dog")
    (tmp_path / "cat/annexed.jpg").symlink_to("../.git/annex/none.jpg")
    with pytest.raises(
        InvalidValueError, match=r"1 of 5 images .*annexed.jpg \(links to \.\./\.git/annex/none.jpg"
    ):
        read_pools(tmp_path)
    skipped: list = []
    read_pools(tmp_path, broken=skipped.append)
    assert skipped[0]["file"].tolist() == [f"{tmp_path}/cat/annexed.jpg"]


@pytest.mark.parametrize("target", ["..", ".", "../.."])
def test_link_to_a_folder_that_contains_it_is_named(tmp_path, target):
    data = folders(tmp_path / "data", "cat", "dog")
    (data / "cat/loop").symlink_to(target)
    with pytest.raises(InvalidValueError, match=r"no link to a folder that contains it, but \S+lo"):
        read_pools(data)


def test_link_to_itself_is_named(tmp_path):
    folders(tmp_path, "cat", "dog")
    (tmp_path / "cat/self").symlink_to("self")
    with pytest.raises(InvalidValueError, match="targets exist"):
        read_pools(tmp_path)


# Endings


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        *((".jfif", "JPEG"), (".jpe", "JPEG"), (".mpo", "JPEG"), (".gif", "GIF")),
        *((".avif", "AVIF"), (".apng", "PNG"), (".jp2", "JPEG2000"), (".ppm", "PPM")),
        *((".TGA", "TGA"), (".ico", "ICO")),
    ],
)
def test_all_endings_that_pillow_reads_are_images(tmp_path, ending, kind):
    folders(tmp_path, "cat", "dog")
    try:
        picture(99).save(tmp_path / f"cat/x{ending}", format=kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")
    assert counts(tmp_path) == [{"cat": 3, "dog": 2}, None]


def test_other_files_are_counted_by_ending(tmp_path, caplog):
    folders(tmp_path, "cat", "dog")
    for name in ("a.CR2", "b.cr2", "clip.mp4", "c.eps", "none", "Thumbs.db", ".DS_Store"):
        (tmp_path / "dog" / name).touch()
    picture(99).save(tmp_path / "loose.jpg")
    assert counts(tmp_path) == [BOTH, None]
    (others, loose) = caplog.messages
    told, counted = others.split("as images do: ")
    assert told == f"{tmp_path}: left out files that do not end "
    assert set(counted.split(", ")) == {"2 .cr2", "1 .mp4", "1 .eps", "1 without an ending"}
    assert loose.endswith(f"left out 1 images without a class, the first is {tmp_path}/loose.jpg")


def test_class_of_other_files_alone_says_which(tmp_path):
    folders(tmp_path, "cat", "dog")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/1.nef").touch()
    with pytest.raises(InvalidValueError, match=r"raw has 1 \.nef; add some or remove the folder"):
        read_pools(tmp_path)


def test_parquet_files_beside_class_folders_are_named(tmp_path, caplog):
    read_pools(folders(tmp_path / "data", "cat", "dog"))[0].to_parquet(tmp_path / "data/a.parquet")
    read_pools(tmp_path / "data")
    assert "of the folders beside them (cat, dog) only what they name" in caplog.text


def test_heic_is_read_with_pillow_heif(tmp_path):
    pytest.importorskip("pillow_heif")
    turned = Image.Exif()
    turned[0x0112] = 6  # upright after a quarter turn to the right
    folders(tmp_path, "cat", "dog")
    large = picture(99).resize((64, 64), Image.Resampling.BICUBIC)  # colours have half the size
    large.save(tmp_path / "cat/x.HEIC", quality=100, exif=turned.tobytes())
    assert counts(tmp_path) == [{"cat": 3, "dog": 2}, None]
    got = np.asarray(open_square(tmp_path / "cat/x.HEIC", size=None)).astype(int)
    differences = [np.abs(got - np.asarray(large.rotate(turn))).mean() for turn in (-90, 0, 90)]
    assert differences[0] < 6
    assert min(differences[1:]) > 30


# What is no part of the data


ODD = ("cat/.ipynb_checkpoints", "cat/.cache/x", "dog/__MACOSX", "dog/@eaDir/0.jpg", "lost+found",
       "$RECYCLE.BIN", "#recycle", "dog/#snapshot/1", "System Volume Information", ".thumbnails",
       "__pycache__")  # fmt: skip

KEPT = ("cat", "dog", "dog/_x", "4913", "old.bak", "a.tmp", "#a#", "b~", "dog/x.orig")
"""Classes and parts of them, some with names of editors' files."""


def test_reader_takes_the_files_that_dvc_hashes(tmp_path):
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    folders(tmp_path / "photos", *ODD, *KEPT)
    for name in (".hidden.png", "._0.png", "Thumbs.db", "desktop.ini"):
        (tmp_path / "photos/cat" / name).touch()
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        hashed = {Path(f) for f in repo.dvcignore.find(repo.fs, str(tmp_path / "photos"))}
    assert set(data_files(tmp_path / "photos")) == hashed
    assert {f.parent for f in hashed} == {tmp_path / "photos" / name for name in KEPT}


def test_hidden_and_technical_folders_are_not_read(tmp_path, caplog):
    folders(tmp_path, "cat", "dog", *ODD)
    assert counts(tmp_path) == [BOTH, None]
    assert "left out hidden folders with images: .thumbnails/, __pycache__/" in caplog.text


def test_hidden_folder_that_is_the_data_folder_is_read(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    assert counts(folders(tmp_path / ".cache/__data", "cat", "dog")) == [BOTH, None]
    assert caplog.messages == []


def test_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    folders(tmp_path, "cat", "dog/locked")
    scan = os.scandir

    def refused(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(InvalidValueError, match=r"locked cannot \(.*Permission denied"):
        read_pools(tmp_path)
