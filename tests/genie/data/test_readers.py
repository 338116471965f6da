import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from genie.core.errors import InvalidValueError, MissingFileError
from genie.core.tables import write_images
from genie.data.images import decode_image, encode_png, image_id
from genie.data.readers import open_square, read_class_names, read_pools


def picture(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    """A smooth random picture, which survives JPEG well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, file: Path, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)
    return file


def class_folders(root: Path, *classes: str, count: int = 2, first: int = 0) -> Path:
    for c, label in enumerate(classes):
        for i in range(count):
            save(picture(first + 100 * c + i), root / label / f"{i}.png")
    return root


def images_table(labels: dict[str, int], *, first: int = 0) -> pd.DataFrame:
    rows = []
    for c, (label, count) in enumerate(labels.items()):
        for i in range(count):
            image = picture(first + 100 * c + i)
            rows.append((image_id(image), label, encode_png(image)))
    return pd.DataFrame(rows, columns=["image_id", "label", "png"])


def pixels(table: pd.DataFrame, label: str) -> np.ndarray:
    (png,) = table.loc[table["label"] == label, "png"]
    return np.asarray(decode_image(png)).astype(int)


# Class folders


def test_class_folders_become_a_sorted_images_table(tmp_path):
    table, test = read_pools(class_folders(tmp_path, "dog", "cat"))
    assert test is None
    assert list(table.columns) == ["image_id", "label", "png"]
    assert table["label"].tolist() == ["cat", "cat", "dog", "dog"]
    assert table.equals(table.sort_values(["label", "image_id"]))
    assert all(
        image_id(decode_image(p)) == i for i, p in zip(table.image_id, table.png, strict=True)
    )


def test_train_and_test_folders_are_two_pools(tmp_path):
    class_folders(tmp_path / "train", "a", "b", count=3)
    class_folders(tmp_path / "test", "a", "b", count=2, first=50)
    train, test = read_pools(tmp_path)
    assert (len(train), len(test)) == (6, 4)


def test_a_class_named_train_is_a_class(tmp_path):
    table, test = read_pools(class_folders(tmp_path, "train", "bus"))
    assert test is None
    assert set(table["label"]) == {"train", "bus"}


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("with space, and comma", "with space, and comma"),
        ("T-shirt%2Ftop", "T-shirt/top"),
        ("Grünfink", "Grünfink"),
        ("Gru\u0308nfink", "Grünfink"),
        ("100%", "100%"),
        ("50%ff", "50%ff"),
        ("007", "007"),
    ],
)
def test_folder_names_become_whole_class_names(tmp_path, folder, label):
    table, _ = read_pools(class_folders(tmp_path, folder, "other"))
    assert set(table["label"]) == {label, "other"}


def test_other_files_and_hidden_folders_are_passed_over(tmp_path):
    class_folders(tmp_path, "a", "b")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._0.png").write_text("left by macOS")
    (tmp_path / ".hidden").mkdir()
    table, _ = read_pools(tmp_path)
    assert len(table) == 4


def test_progress_goes_around_all_pictures(tmp_path):
    seen = []

    def progress(raws, label, *, total, unit, **options):
        seen.append((len(raws), label, total, unit))
        return raws

    read_pools(class_folders(tmp_path, "a", "b"), progress=progress)
    assert seen == [(4, "reading images", 4, "image")]


# Formats and modes


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "png", "webp", "bmp", "tif"])
def test_every_format_is_read(tmp_path, ending):
    class_folders(tmp_path, "other")
    save(picture(7), tmp_path / "class" / f"x.{ending}")
    table, _ = read_pools(tmp_path)
    assert np.abs(pixels(table, "class") - np.asarray(picture(7)).astype(int)).mean() < 12


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_every_png_mode_becomes_rgb(tmp_path, mode):
    class_folders(tmp_path, "other")
    save(picture(7).convert(mode), tmp_path / "class" / "x.png")
    table, _ = read_pools(tmp_path)
    assert pixels(table, "class").shape == (16, 16, 3)


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    class_folders(tmp_path, "other")
    save(Image.new("RGB", (8, 8), (200, 30, 60)).convert("CMYK"), tmp_path / "class" / "x.jpg")
    table, _ = read_pools(tmp_path)
    assert np.abs(pixels(table, "class") - (200, 30, 60)).max() < 12


# Bad input


def test_all_bad_files_are_listed_with_what_is_wrong(tmp_path):
    class_folders(tmp_path, "a", "b")
    (tmp_path / "a" / "text.png").write_text("not a picture")
    (tmp_path / "b" / "empty.jpg").touch()
    buffer = io.BytesIO()
    picture(1, 64, 64).save(buffer, format="JPEG")
    (tmp_path / "b" / "short.jpg").write_bytes(buffer.getvalue()[:-200])
    message = (
        r"path must .* 3 of 7 images in .*text.png \(not an image\), .*empty.jpg "
        r"\(not an image\), .*short.jpg \(.*truncated.*\); repair or remove them, or set `broken`"
    )
    with pytest.raises(InvalidValueError, match=message):
        read_pools(tmp_path)


@pytest.mark.parametrize("cut", [40, 60, 100, 150])
def test_truncated_png_is_named(tmp_path, cut):
    class_folders(tmp_path, "a", "b")
    png = encode_png(picture(1, 64, 64))
    (tmp_path / "a" / "short.png").write_bytes(png[:-cut])
    with pytest.raises(InvalidValueError, match=r"1 of 5 images .*short.png"):
        read_pools(tmp_path)


def test_decompression_bomb_is_named(tmp_path, monkeypatch):
    class_folders(tmp_path, "a", "b")
    save(Image.new("RGB", (100, 100)), tmp_path / "a" / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InvalidValueError, match=r"bomb.png \(too many pixels"):
        read_pools(tmp_path)


@pytest.mark.parametrize("read", [read_pools, read_class_names])
def test_missing_path_is_named(tmp_path, read):
    message = r"path must be an existing image folder, .*nowhere'; give a folder"
    with pytest.raises(MissingFileError, match=message) as caught:
        read(tmp_path / "nowhere")
    assert caught.value.argument == "path"
    assert caught.value.value == str(tmp_path / "nowhere")


def test_empty_class_folder_is_named(tmp_path):
    (class_folders(tmp_path, "a", "b") / "empty").mkdir()
    with pytest.raises(InvalidValueError, match=r"images in each class .*\.jpeg.*empty has none"):
        read_pools(tmp_path)


def test_folder_without_classes_names_the_endings_looked_for(tmp_path):
    save(picture(0), tmp_path / "x.png")
    with pytest.raises(InvalidValueError, match=r"\.bmp, \.jpeg.* found no images in"):
        read_pools(tmp_path)


def test_one_class_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match=r"at least 2 classes, but .* has only 'a'"):
        read_pools(class_folders(tmp_path, "a"))


@pytest.mark.parametrize(("more", "fewer"), [("train", "test"), ("test", "train")])
def test_class_in_one_split_only_is_named(tmp_path, more, fewer):
    class_folders(tmp_path / more, "a", "b", "c")
    class_folders(tmp_path / fewer, "a", "b", first=50)
    with pytest.raises(InvalidValueError, match=f"'c' is in {more} but has no images in {fewer}"):
        read_pools(tmp_path)


# Duplicates


def test_copies_in_a_class_are_dropped_with_a_warning(tmp_path, caplog):
    class_folders(tmp_path, "a", "b")
    save(picture(0), tmp_path / "a" / "copy.bmp")
    table, _ = read_pools(tmp_path)
    assert len(table) == 4
    assert "dropped 1 duplicate images" in caplog.text


def test_picture_under_two_classes_is_dropped_from_both_with_a_warning(tmp_path, caplog):
    class_folders(tmp_path, "a", "b")
    save(picture(0), tmp_path / "b" / "torn.png")
    table, _ = read_pools(tmp_path)
    assert table["label"].tolist() == ["a", "b", "b"]
    assert "dropped 2 images that appear in several classes" in caplog.text
    assert "torn.png" in caplog.text


def test_test_images_are_dropped_from_train_with_a_warning(tmp_path, caplog):
    class_folders(tmp_path / "train", "a", "b", count=3)
    class_folders(tmp_path / "test", "a", "b", count=1)
    train, test = read_pools(tmp_path)
    assert (len(train), len(test)) == (4, 2)
    assert "dropped 2 train images that are also in test" in caplog.text


# Parquet


def test_bundled_layout_reads_back_what_was_written(tmp_path):
    train, test = images_table({"a": 2, "b": 2}), images_table({"a": 1, "b": 1}, first=50)
    write_images(train, tmp_path / "train")
    write_images(test, tmp_path / "test")
    got_train, got_test = read_pools(tmp_path)
    expected = train.sort_values(["label", "image_id"], ignore_index=True)
    pd.testing.assert_frame_equal(got_train, expected)
    assert set(got_test["image_id"]) == set(test["image_id"])


def test_split_column_makes_two_pools(tmp_path):
    table = images_table({"a": 3, "b": 3})
    table["split"] = ["train", "test", "train"] * 2
    table.to_parquet(tmp_path / "all.parquet")
    train, test = read_pools(tmp_path / "all.parquet")
    assert (len(train), len(test)) == (4, 2)


def hub_parquet(file: Path, *, first: int = 0, labels: tuple[int, ...] = (0, 1)) -> None:
    cells = [{"bytes": encode_png(picture(first + abs(i))), "path": None} for i in labels]
    features = {"label": {"names": ["T-shirt/top", "coat"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": cells, "label": list(labels)})
    pq.write_table(table.replace_schema_metadata(metadata), file)


def test_hub_parquet_gives_class_names_and_splits_by_file_name(tmp_path):
    hub_parquet(tmp_path / "train-00000-of-00001.parquet")
    hub_parquet(tmp_path / "test-00000-of-00001.parquet", first=50)
    train, test = read_pools(tmp_path)
    assert train["label"].tolist() == ["T-shirt/top", "coat"]
    assert test["label"].tolist() == ["T-shirt/top", "coat"]


def test_label_without_a_class_is_named(tmp_path):
    hub_parquet(tmp_path / "x.parquet", labels=(0, 1, -1))
    with pytest.raises(InvalidValueError, match=r"label in row 2 of .*x.parquet is -1"):
        read_pools(tmp_path / "x.parquet")


def test_parquet_without_an_image_column_names_the_columns(tmp_path):
    pd.DataFrame({"label": ["a"], "photo": [b""]}).to_parquet(tmp_path / "x.parquet")
    message = "column named png or image or img, but .* has only: label, photo; rename one"
    with pytest.raises(InvalidValueError, match=message):
        read_pools(tmp_path / "x.parquet")


def test_split_column_without_train_is_an_error(tmp_path):
    table = images_table({"a": 2, "b": 2}).assign(split="validation")
    table.to_parquet(tmp_path / "all.parquet")
    with pytest.raises(InvalidValueError, match=r"'train' in the column .*\['validation'\]"):
        read_pools(tmp_path / "all.parquet")


def test_cell_without_an_encoded_image_is_named(tmp_path):
    pd.DataFrame({"label": ["a"], "image": [7]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(InvalidValueError, match=r"row 0 of .*x.parquet is of type int"):
        read_pools(tmp_path / "x.parquet")


def test_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "x.parquet").write_text("text")
    with pytest.raises(
        InvalidValueError, match=r"readable Parquet file, but .*x.parquet is not \("
    ):
        read_pools(tmp_path / "x.parquet")


def cells(count: int = 6, *, first: int = 0) -> list[dict[str, object]]:
    return [{"bytes": encode_png(picture(first + i)), "path": None} for i in range(count)]


def parquet(file: Path, features: object = None, **columns: object) -> Path:
    """A Parquet file of 6 images of the classes a and b, with other or more columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": cells(), "label": ["a", "b"] * 3} | columns)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), file)
    return file


def counts(table: pd.DataFrame | None) -> dict[str, int]:
    return {} if table is None else table["label"].value_counts().to_dict()


CLASSES = {"_type": "ClassLabel", "names": ["x", "y"]}


@pytest.mark.parametrize(
    "labels", [[[0, 1]] * 6, [["a"], ["b"]] * 3, [{"name": "a"}] * 6, [b"a", b"b"] * 3]
)
@pytest.mark.parametrize("read", [read_pools, read_class_names])
def test_label_that_is_no_text_or_number_is_refused(tmp_path, labels, read):
    file = parquet(tmp_path / "x.parquet", {"label": {"feature": CLASSES}}, label=labels)
    with pytest.raises(
        InvalidValueError, match=r"one class per image, .* the column label of .* is"
    ):
        read(file)


def test_rows_without_an_image_or_a_class_are_skipped_if_asked(tmp_path):
    images: list[object] = [*cells(7)]
    images[0], images[1] = None, {"bytes": None, "path": None}
    labels = ["a", "b", "a", None, "a", "", "b"]
    table = pa.table({"image": images, "label": labels})
    pq.write_table(table, tmp_path / "x.parquet")
    skipped: list[pd.DataFrame] = []
    table, _ = read_pools(tmp_path / "x.parquet", broken=skipped.append)
    assert counts(table) == {"a": 2, "b": 1}
    (listed,) = skipped
    where = f"of {tmp_path}/x.parquet is"
    assert listed[["label", "reason"]].values.tolist() == [
        ["a", f"image in row 0 {where} null"],
        ["b", f"image in row 1 {where} empty"],
        ["", f"label in row 3 {where} None"],
        ["", f"label in row 5 {where} ''"],
    ]
    message = r"an encoded image in each row, but image in row 0 .* \(and 3 more rows .* to skip"
    with pytest.raises(InvalidValueError, match=message):
        read_pools(tmp_path / "x.parquet")
    assert read_class_names(tmp_path / "x.parquet") == ["a", "b"]


@pytest.mark.parametrize("features", [None, {}, CLASSES])
def test_missing_numbers_are_no_class(tmp_path, features):
    numbers = [0.0, 1.0, 0.0, 1.0, None, float("nan")]
    file = parquet(tmp_path / "x.parquet", {"label": features}, label=numbers)
    table, _ = read_pools(file, broken=lambda table: None)
    assert counts(table) == dict.fromkeys(["x", "y"] if features else ["0.0", "1.0"], 2)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
@pytest.mark.parametrize("start", ["", "data:image/png;base64,"])
def test_images_in_base64_are_refused_in_a_short_line(tmp_path, kind, start):
    buffer = io.BytesIO()
    picture(0).save(buffer, kind)
    text = start + base64.b64encode(buffer.getvalue()).decode()
    file = parquet(tmp_path / "x.parquet", image=[text] * 6)
    with pytest.raises(InvalidValueError, match=r"is text in base64, got .*; decode it") as error:
        read_pools(file)
    assert len(str(error.value)) < 400


def test_long_text_in_place_of_an_image_is_shortened(tmp_path):
    file = parquet(tmp_path / "x.parquet", image=["no image, but a text. " * 1000] * 6)
    with pytest.raises(InvalidValueError, match=r"cannot: .* row 0 ") as error:
        read_pools(file)
    assert len(str(error.value)) < 3000


@pytest.mark.parametrize(
    "metadata",
    ['{"info": {"features": null}}', '{"info": null}', "{", "[1]", '{"info": {"features": [1]}}'],
)
def test_metadata_of_datasets_may_be_of_any_form(tmp_path, metadata):
    table = pq.read_table(parquet(tmp_path / "x.parquet"))
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "x.parquet")
    assert counts(read_pools(tmp_path / "x.parquet")[0]) == {"a": 3, "b": 3}


def test_columns_are_found_by_their_types(tmp_path, caplog):
    table = pa.table({"photo": cells(), "mask": cells(first=50), "species": [0, 1] * 3})
    image = {"_type": "Image"}
    features = {"photo": image, "mask": image, "species": CLASSES}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    found, _ = read_pools(tmp_path / "x.parquet")
    assert set(found["image_id"]) == {image_id(picture(i)) for i in range(6)}
    assert read_class_names(tmp_path / "x.parquet") == ["x", "y"]
    assert "images are those of the column photo, and not of mask" in caplog.text


def test_of_several_columns_of_labels_the_one_taken_is_named(tmp_path, caplog):
    features = {"coarse": CLASSES}
    read_pools(parquet(tmp_path / "x.parquet", features, coarse=[0] * 6, **{"class": ["c"] * 6}))
    assert "labels are those of the column label, and not of class, coarse" in caplog.text


def test_images_may_be_files_beside_the_table(tmp_path, caplog):
    caplog.set_level("INFO")
    for i in range(6):
        save(picture(i), tmp_path / f"images/{i}.png")
    named = [{"bytes": None, "path": f"images/{i}.png"} for i in range(6)]
    table, _ = read_pools(parquet(tmp_path / "x.parquet", image=named))
    assert set(table["image_id"]) == {image_id(picture(i)) for i in range(6)}
    assert f"6 images are the files in {tmp_path} that image names" in caplog.text


def test_two_columns_of_one_name_are_refused(tmp_path):
    images = pa.array([encode_png(picture(i)) for i in range(2)])
    table = pa.Table.from_arrays(
        [images, images, pa.array(["a", "b"])], ["image", "image", "label"]
    )
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InvalidValueError, match=r"one column of each name, .* several named image"):
        read_pools(tmp_path / "x.parquet")


# Layouts of the hub


@pytest.mark.parametrize("folder", ["data", "plain_text"])
def test_clone_of_a_data_set_of_the_hub_is_read(tmp_path, folder):
    parquet(tmp_path / folder / "train-00000-of-00001.parquet")
    parquet(tmp_path / folder / "test-00000-of-00001.parquet", image=cells(first=50))
    (tmp_path / "README.md").write_text("A data set")
    train, test = read_pools(tmp_path)
    assert counts(train) == counts(test) == {"a": 3, "b": 3}
    assert read_class_names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("read", [read_pools, read_class_names])
def test_folder_of_several_data_sets_is_named(tmp_path, read):
    parquet(tmp_path / "one/train.parquet")
    parquet(tmp_path / "two/train.parquet")
    with pytest.raises(InvalidValueError, match=r"one data set, .* in one and .* in two; give one"):
        read(tmp_path)


def test_table_beside_the_images_of_a_class_is_left_alone(tmp_path):
    parquet(class_folders(tmp_path, "a", "b") / "a/x.parquet")
    assert counts(read_pools(tmp_path)[0]) == {"a": 2, "b": 2}


def test_validation_files_have_the_queries_where_there_is_no_test_split(tmp_path, caplog):
    for i, name in enumerate(("photos_train.parquet", "photos-Val.parquet", "more.parquet")):
        parquet(tmp_path / name, image=cells(first=50 * i))
    train, query = read_pools(tmp_path)
    assert counts(train) == counts(query) == {"a": 3, "b": 3}
    assert "queries are from the split validation" in caplog.text
    assert "left out: files without the name of a split" in caplog.text


def test_split_that_is_not_read_is_named(tmp_path, caplog):
    splits = ["Train"] * 2 + ["val"] * 2 + ["test"] * 2
    train, query = read_pools(parquet(tmp_path / "x.parquet", split=splits))
    assert counts(train) == counts(query) == {"a": 1, "b": 1}
    assert "left out: validation" in caplog.text


def test_other_splits_are_not_read_as_one_pool(tmp_path):
    for i, name in enumerate(("test-0.parquet", "validation-0.parquet")):
        parquet(tmp_path / name, image=cells(first=50 * i))
    with pytest.raises(
        InvalidValueError, match=r"train-\*.parquet .* only test, validation; rename"
    ):
        read_pools(tmp_path)


def test_split_column_of_some_files_alone_is_refused(tmp_path):
    parquet(tmp_path / "one.parquet", split=["train"] * 6)
    parquet(tmp_path / "two.parquet")
    with pytest.raises(
        InvalidValueError, match=r"split in all files or in none, but .*two.parquet"
    ):
        read_pools(tmp_path)


def test_pointer_of_git_lfs_has_a_remedy(tmp_path):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "x.parquet").write_text(text)
    with pytest.raises(InvalidValueError, match="run `git lfs pull`"):
        read_pools(tmp_path / "x.parquet")


# Data sets saved by `datasets`


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ()])
def test_saved_dataset_is_read(tmp_path, splits):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["T-shirt/top", "coat"])}
    )

    def made(first: int):
        cells = [{"bytes": encode_png(picture(first + i)), "path": None} for i in (0, 1)]
        return datasets.Dataset.from_dict({"image": cells, "label": [1, 0]}, features=features)

    parts = {split: made(50 * i) for i, split in enumerate(splits)}
    (datasets.DatasetDict(parts) if parts else made(0)).save_to_disk(tmp_path / "saved")
    train, test = read_pools(tmp_path / "saved")
    assert train["label"].tolist() == ["T-shirt/top", "coat"]
    assert (test is not None) == ("test" in splits)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_saved_dataset_names_splits_and_columns_that_are_not_read(tmp_path, caplog):
    datasets = pytest.importorskip("datasets")
    image = datasets.Image()
    kinds = {"image": image, "mask": image, "label": datasets.ClassLabel(names=["a", "b"])}
    parts = {
        split: datasets.Dataset.from_dict(
            {"image": cells(first=first), "mask": cells(first=first), "label": [0, 1] * 3},
            features=datasets.Features(kinds),
        )
        for split, first in (("train", 0), ("validation", 50), ("unlabelled", 100))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    train, query = read_pools(tmp_path / "saved")
    assert counts(train) == counts(query) == {"a": 3, "b": 3}
    assert "left out: unlabelled" in caplog.text
    assert "images are those of the column image, and not of mask" in caplog.text


def test_saved_dataset_without_train_names_its_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"label": ["a"]})
    datasets.DatasetDict({"validation": part}).save_to_disk(tmp_path / "saved")
    with pytest.raises(InvalidValueError, match=r"split 'train', but .*\['validation'\]"):
        read_pools(tmp_path / "saved")


def test_damaged_saved_dataset_is_named(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(InvalidValueError, match="must be a readable data set, but"):
        read_pools(tmp_path)


# Class names alone


def test_class_names_are_those_of_the_folders(tmp_path):
    assert read_class_names(class_folders(tmp_path / "one", "dog", "T%2Fop")) == ["T/op", "dog"]
    class_folders(tmp_path / "two/train", "a", "b")
    class_folders(tmp_path / "two/test", "a", "b", first=50)
    assert read_class_names(tmp_path / "two") == ["a", "b"]


def test_class_names_of_parquet_are_those_of_its_labels(tmp_path):
    write_images(images_table({"007": 2, "cat": 1}), tmp_path / "train")
    assert read_class_names(tmp_path) == ["007", "cat"]
    assert read_class_names(tmp_path / "train/images.parquet") == ["007", "cat"]


def test_class_names_of_a_file_that_is_no_parquet_are_an_error(tmp_path):
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(InvalidValueError, match="must be a readable Parquet file"):
        read_class_names(tmp_path)


@pytest.mark.parametrize("splits", [True, False])
def test_class_names_of_a_saved_data_set_are_those_of_its_labels(tmp_path, splits):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Value("binary"), "label": datasets.ClassLabel(names=["x", "y", "z"])}
    )
    made = datasets.Dataset.from_dict({"image": [b"", b""], "label": [2, 0]}, features=features)
    saved = datasets.DatasetDict({"train": made, "test": made}) if splits else made
    saved.save_to_disk(tmp_path / "saved")
    assert read_class_names(tmp_path / "saved") == ["x", "z"]


def split_folders(root: Path, train: list[str], test: list[str]) -> Path:
    class_folders(root / "train", *train)
    class_folders(root / "test", *test, first=50)
    return root


def split_parts(root: Path, train: list[str], test: list[str]) -> Path:
    for first, (part, labels) in enumerate({"train": train, "test": test}.items()):
        write_images(images_table(dict.fromkeys(labels, 2), first=50 * first), root / part)
    return root


def split_files(root: Path, train: list[str], test: list[str]) -> Path:
    for part in ("train", "test"):
        (split_parts(root / "parts", train, test) / part / "images.parquet").rename(
            root / f"{part}-0.parquet"
        )
    return root


def split_column(root: Path, train: list[str], test: list[str]) -> Path:
    parts = {"train": train, "test": test, "validation": ["other"]}
    tables = [
        images_table(dict.fromkeys(labels, 2), first=50 * first).assign(split=part)
        for first, (part, labels) in enumerate(parts.items())
    ]
    root.mkdir()
    pd.concat(tables).to_parquet(root / "all.parquet")
    return root / "all.parquet"


LAYOUTS = [split_folders, split_parts, split_files, split_column]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_class_names_are_those_of_the_images_that_are_read(tmp_path, layout):
    path = layout(tmp_path / "data", ["a", "b"], ["a", "b"])
    assert read_class_names(path) == sorted(set(read_pools(path)[0]["label"])) == ["a", "b"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("read", [read_class_names, read_pools])
@pytest.mark.parametrize(
    ("train", "test", "where"),
    [
        ("ab", "abc", "class 'c' is in test but has no images in train"),
        ("abc", "ab", "class 'c' is in train but has no images in test"),
        ("a", "a", "only 'a'"),
    ],
)
def test_class_that_only_one_split_has_is_found_without_reading_images(
    tmp_path, monkeypatch, layout, read, train, test, where
):
    path = layout(tmp_path / "data", list(train), list(test))
    monkeypatch.setattr("genie.data.readers.open_square", pytest.fail)
    with pytest.raises(InvalidValueError, match=where):
        read(path)


# Skipping


def test_images_that_cannot_be_read_are_handed_over_and_left_out(tmp_path):
    class_folders(tmp_path, "a", "b")
    (tmp_path / "a" / "text.png").write_text("not a picture")
    (tmp_path / "b" / "empty.jpg").touch()
    skipped: list[pd.DataFrame] = []
    table, _ = read_pools(tmp_path, broken=skipped.append)
    assert len(table) == 4
    (listed,) = skipped
    assert listed.values.tolist() == [
        [f"{tmp_path}/a/text.png", "a", "not an image"],
        [f"{tmp_path}/b/empty.jpg", "b", "not an image"],
    ]


def test_a_class_without_a_readable_image_is_named(tmp_path):
    class_folders(tmp_path, "a", "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "text.png").write_text("not a picture")
    with pytest.raises(InvalidValueError, match=r"no image of class 'c' in .* can be read"):
        read_pools(tmp_path, broken=lambda table: None)


# Single images


def test_image_is_opened_from_a_file_and_from_bytes_as_a_square(tmp_path):
    file = save(picture(1, 24, 16), tmp_path / "x.png")
    for data in (file, file.read_bytes()):
        assert open_square(data, size=8).size == (8, 8)
    assert open_square(file, size=None).size == (16, 16)


def test_image_that_cannot_be_opened_raises_the_reason_alone(tmp_path):
    with pytest.raises(InvalidValueError, match=r"^not an image$"):
        open_square(b"text", size=None)
    with pytest.raises(InvalidValueError, match="No such file"):
        open_square(tmp_path / "nowhere.png", size=None)
