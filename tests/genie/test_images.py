import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genie.errors import GenieError
from genie.images import class_name, read_pools, slug, split_queries, to_square_rgb
from genie.records import decode_png, encode_png, image_id, write_images


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
    return np.asarray(decode_png(png)).astype(int)


# Class folders


def test_class_folders_become_a_sorted_images_table(tmp_path):
    table, test = read_pools(class_folders(tmp_path, "dog", "cat"))
    assert test is None
    assert list(table.columns) == ["image_id", "label", "png"]
    assert table["label"].tolist() == ["cat", "cat", "dog", "dog"]
    assert table.equals(table.sort_values(["label", "image_id"]))
    assert all(image_id(decode_png(p)) == i for i, p in zip(table.image_id, table.png, strict=True))


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
    read_pools(class_folders(tmp_path, "a", "b"), wrap=lambda raws: seen.append(len(raws)) or raws)
    assert seen == [4]


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


def test_transparency_is_composited_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_square_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert to_square_rgb(half).getpixel((0, 0)) == (255, 127, 127)


def test_transparent_palette_colour_is_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30] * 256)
    save(image, tmp_path / "x.png", transparency=0)
    assert to_square_rgb(Image.open(tmp_path / "x.png")).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257], [257 * 128, 65535]], dtype=np.uint16)
    save(Image.fromarray(values), tmp_path / "x.png")
    grey = np.asarray(to_square_rgb(Image.open(tmp_path / "x.png")))[:, :, 0]
    assert grey.tolist() == [[0, 1], [128, 255]]


def test_exif_orientation_is_honoured(tmp_path):
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    save(image, tmp_path / "x.png", exif=exif)
    upright = to_square_rgb(Image.open(tmp_path / "x.png"))
    assert upright.getpixel((4, 7)) == (255, 255, 255)
    assert upright.getpixel((4, 0)) == (0, 0, 0)


@pytest.mark.parametrize(("shape", "size", "side"), [((40, 20), 10, 10), ((40, 20), None, 20)])
def test_wide_picture_is_cropped_at_its_centre(shape, size, side):
    image = Image.new("RGB", shape, "black")
    image.paste("white", (10, 0, 30, 20))
    square = np.asarray(to_square_rgb(image, size=size))
    assert square.shape == (side, side, 3)
    assert square[:, 2:-2].min() >= 254


def test_small_picture_is_enlarged_to_size():
    assert to_square_rgb(picture(0), size=64).size == (64, 64)


# Bad input


def test_all_bad_files_are_listed_with_what_is_wrong(tmp_path):
    class_folders(tmp_path, "a", "b")
    (tmp_path / "a" / "text.png").write_text("not a picture")
    (tmp_path / "b" / "empty.jpg").touch()
    buffer = io.BytesIO()
    picture(1, 64, 64).save(buffer, format="JPEG")
    (tmp_path / "b" / "short.jpg").write_bytes(buffer.getvalue()[:-200])
    message = (
        r"3 of 7 images in .*text.png \(not an image\), .*empty.jpg \(not an image\), "
        r".*short.jpg \(.*truncated.*\); repair or remove them"
    )
    with pytest.raises(GenieError, match=message):
        read_pools(tmp_path)


@pytest.mark.parametrize("cut", [40, 60, 100, 150])
def test_truncated_png_is_named(tmp_path, cut):
    class_folders(tmp_path, "a", "b")
    png = encode_png(picture(1, 64, 64))
    (tmp_path / "a" / "short.png").write_bytes(png[:-cut])
    with pytest.raises(GenieError, match=r"1 of 5 images .*short.png"):
        read_pools(tmp_path)


def test_decompression_bomb_is_named(tmp_path, monkeypatch):
    class_folders(tmp_path, "a", "b")
    save(Image.new("RGB", (100, 100)), tmp_path / "a" / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(GenieError, match=r"bomb.png \(too many pixels"):
        read_pools(tmp_path)


def test_missing_path_is_named(tmp_path):
    with pytest.raises(GenieError, match=r"data.path .*nowhere does not exist"):
        read_pools(tmp_path / "nowhere")


def test_empty_class_folder_is_named(tmp_path):
    (class_folders(tmp_path, "a", "b") / "empty").mkdir()
    with pytest.raises(GenieError, match=r"class folder .*empty holds no images \(.*\.jpeg"):
        read_pools(tmp_path)


def test_folder_without_classes_names_the_endings_looked_for(tmp_path):
    save(picture(0), tmp_path / "x.png")
    with pytest.raises(GenieError, match=r"found no images in .*\.bmp, \.jpeg"):
        read_pools(tmp_path)


def test_one_class_is_refused(tmp_path):
    with pytest.raises(GenieError, match="at least 2 classes, found only 'a'"):
        read_pools(class_folders(tmp_path, "a"))


@pytest.mark.parametrize(("more", "fewer"), [("train", "test"), ("test", "train")])
def test_class_in_one_split_only_is_named(tmp_path, more, fewer):
    class_folders(tmp_path / more, "a", "b", "c")
    class_folders(tmp_path / fewer, "a", "b", first=50)
    with pytest.raises(GenieError, match=f"'c' is in {more} but has no images in {fewer}"):
        read_pools(tmp_path)


# Duplicates


def test_copies_in_a_class_are_dropped_with_a_warning(tmp_path, caplog):
    class_folders(tmp_path, "a", "b")
    save(picture(0), tmp_path / "a" / "copy.bmp")
    table, _ = read_pools(tmp_path)
    assert len(table) == 4
    assert "dropped 1 copies" in caplog.text


def test_picture_under_two_classes_is_dropped_from_both_with_a_warning(tmp_path, caplog):
    class_folders(tmp_path, "a", "b")
    save(picture(0), tmp_path / "b" / "torn.png")
    table, _ = read_pools(tmp_path)
    assert table["label"].tolist() == ["a", "b", "b"]
    assert "dropped 2 images that stand under several classes" in caplog.text
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
    with pytest.raises(GenieError, match="row 2 has no class: label is -1"):
        read_pools(tmp_path / "x.parquet")


def test_parquet_without_an_image_column_names_the_columns(tmp_path):
    pd.DataFrame({"label": ["a"], "photo": [b""]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(GenieError, match="column named png or image or img, found only: label"):
        read_pools(tmp_path / "x.parquet")


def test_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "x.parquet").write_text("text")
    with pytest.raises(GenieError, match=r"x.parquet is not a readable Parquet file"):
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


# Slugs


@given(st.text(), st.text())
def test_slugs_differ_where_names_differ(one, other):
    assert (slug(one) == slug(other)) == (one == other)


@given(st.text(max_size=15))
def test_slug_is_a_safe_folder_name(name):
    text = slug(name)
    assert text.isascii()
    assert 0 < len(text) <= 200
    assert not set(text) & set('/\\:*?"<>| ,')
    assert not text.startswith(".")
    assert not text.endswith(".")


@pytest.mark.parametrize("name", ["T-shirt/top", "Grünfink", "a, b", ".", "..", "50%", "%2F", "x."])
def test_class_name_undoes_slug(name):
    assert class_name(slug(name)) == name


def test_long_names_get_short_different_slugs():
    one, other = slug("日" * 300), slug("日" * 301)
    assert one != other
    assert len(one) <= 200


# Splitting off queries


def test_queries_are_the_wanted_fraction_of_each_class():
    support, query = split_queries(images_table({"a": 20, "b": 10}), fraction=0.3, seed=0)
    assert query["label"].value_counts().to_dict() == {"a": 6, "b": 3}
    assert not set(support["image_id"]) & set(query["image_id"])
    assert len(support) == 21


def test_split_depends_on_content_and_seed_alone():
    table = images_table({"a": 20, "b": 20})
    _, one = split_queries(table, fraction=0.3, seed=0)
    _, shuffled = split_queries(table.sample(frac=1, random_state=0), fraction=0.3, seed=0)
    _, other = split_queries(table, fraction=0.3, seed=1)
    assert set(one["image_id"]) == set(shuffled["image_id"])
    assert set(one["image_id"]) != set(other["image_id"])


def test_near_duplicates_stay_on_one_side():
    rows = []
    rng = np.random.default_rng(0)
    for i in range(12):
        detailed = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        for quality in (95, 80):
            buffer = io.BytesIO()
            detailed.resize((64, 64)).save(buffer, format="JPEG", quality=quality)
            image = Image.open(buffer).convert("RGB")
            rows.append((image_id(image), "a", encode_png(image), i))
    table = pd.DataFrame(rows, columns=["image_id", "label", "png", "origin"])
    for seed in range(5):
        support, query = split_queries(table, fraction=0.3, seed=seed)
        assert len(query) == 6
        assert not set(support["origin"]) & set(query["origin"])


def test_class_that_cannot_be_split_is_named():
    with pytest.raises(GenieError, match="class 'b' cannot be split"):
        split_queries(images_table({"a": 5, "b": 1}), fraction=0.3, seed=0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_fraction_outside_the_unit_interval_is_refused(fraction):
    with pytest.raises(GenieError, match=r"data.query_fraction must be between 0 and 1"):
        split_queries(images_table({"a": 5}), fraction=fraction, seed=0)
