import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from genie.core.errors import InvalidValueError, MissingFileError
from genie.core.tables import IMAGES
from genie.data.datasets import labelled_images
from genie.data.images import decode_image, encode_png, image_id, to_square_rgb

NAMES = ("T-shirt/top", "coat")


def picture(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


PICTURES = [picture(seed, 24, 16) for seed in range(4)]
EXPECTED = {image_id(to_square_rgb(p)): NAMES[i % 2] for i, p in enumerate(PICTURES)}


class Torchvision:
    """A data set as torchvision makes them: `classes`, `__len__` and `__getitem__`, no iterator."""

    def __init__(self, labels: Any, classes: tuple[str, ...] | None = NAMES, transform: Any = None):
        self.labels = labels
        self.transform = transform or (lambda image: image)
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.transform(PICTURES[index]), self.labels[index]


def folder_of(root: Path) -> Path:
    for i, image in enumerate(PICTURES):
        file = root / NAMES[i % 2].replace("/", "%2F") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    return root


def hugging_face(labels: list[Any], feature: str, *, column: str = "label") -> Any:
    datasets = pytest.importorskip("datasets")
    kinds = {"names": datasets.ClassLabel(names=list(NAMES)), "text": datasets.Value("string")}
    kinds["number"] = datasets.Value("int64")
    features = datasets.Features({"photo": datasets.Image(), column: kinds[feature]})
    cells = [{"bytes": encode_png(image), "path": None} for image in PICTURES]
    return datasets.Dataset.from_dict({"photo": cells, column: labels}, features=features)


def labels_of(found: Any) -> dict[str, str]:
    return dict(zip(found.table["image_id"], found.table["label"], strict=True))


# The four forms


@pytest.mark.parametrize("kind", [str, Path])
def test_folder_is_read_with_its_licence(tmp_path, kind):
    (folder_of(tmp_path) / "LICENSE").write_text("free for all")
    found = labelled_images(kind(tmp_path))
    assert labels_of(found) == EXPECTED
    assert found.licence == "free for all"
    assert found.label_of == {}


def test_train_is_read_of_several_splits(tmp_path):
    folder_of(tmp_path / "train")
    for name in ("T-shirt%2Ftop", "coat"):
        (tmp_path / "test" / name).mkdir(parents=True)
        picture(50 + len(name)).save(tmp_path / "test" / name / "x.png")
    assert labels_of(labelled_images(tmp_path)) == EXPECTED


def test_list_of_pairs_is_read():
    pairs = [(image, NAMES[i % 2]) for i, image in enumerate(PICTURES)]
    for dataset in (pairs, tuple(pairs), iter(pairs), [list(pair) for pair in pairs]):
        found = labelled_images(dataset)
        assert labels_of(found) == EXPECTED
        assert found.label_of == {name: name for name in NAMES}
        assert found.licence == ""


@pytest.mark.parametrize("kind", [int, np.int64, torch.tensor])
def test_torchvision_style_data_set_is_read_with_its_class_names(kind):
    labels = [kind(0), kind(1), kind(0), kind(1)]
    found = labelled_images(Torchvision(labels))
    assert labels_of(found) == EXPECTED
    assert found.label_of == {"T-shirt/top": 0, "coat": 1}


def test_given_class_names_go_before_those_of_the_data_set():
    found = labelled_images(Torchvision([0, 1, 0, 1]), class_names=["top", "jacket"])
    assert set(found.table["label"]) == {"top", "jacket"}
    assert found.label_of == {"top": 0, "jacket": 1}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("labels", "feature"), [([0, 1, 0, 1], "names"), ([*NAMES, *NAMES], "text")]
)
def test_hugging_face_data_set_is_read(labels, feature):
    found = labelled_images(hugging_face(labels, feature))
    assert labels_of(found) == EXPECTED
    assert found.label_of == dict(zip(NAMES, labels, strict=False))


def test_all_forms_give_the_same_table(tmp_path):
    pairs = [(image, NAMES[i % 2]) for i, image in enumerate(PICTURES)]
    forms = [folder_of(tmp_path), pairs, Torchvision([0, 1, 0, 1])]
    first, *others = (labelled_images(form).table for form in forms)
    assert list(first.columns) == list(IMAGES)
    assert all(first.equals(other) for other in others)


def test_images_become_squares_named_by_their_pixels():
    (_, row) = labelled_images(list(zip(PICTURES[:2], NAMES, strict=True))).table.iterrows()
    image = decode_image(row[1]["png"])
    assert image.size == (16, 16)
    assert image_id(image) == row[1]["image_id"]


def test_duplicates_are_dropped_with_a_warning(caplog):
    pairs = [(image, NAMES[i % 2]) for i, image in enumerate(PICTURES)]
    found = labelled_images([*pairs, (PICTURES[0].copy(), NAMES[0])])
    assert labels_of(found) == EXPECTED
    assert "dataset: dropped 1 duplicate images within their class" in caplog.text


# Errors


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (7, "int is no sequence"),
        (PICTURES, "item 0 is an Image"),
        (["coat"], "item 0 is a str"),
        ([(PICTURES[0], "coat", 3)], "item 0 is a tuple of 3"),
        ([(PICTURES[0], "coat"), ("x.png", "bag")], "item 1 has a str of 5 in place of the image"),
        ({"coat": PICTURES}, "item 0 is a str"),
        (Torchvision([0, 1], transform=lambda image: torch.zeros(3, 8, 8)), "item 0 has a Tensor"),
        (torch.utils.data.TensorDataset(torch.zeros(2, 3), torch.zeros(2)), "item 0 has a Tensor"),
    ],
)
def test_anything_but_pairs_of_an_image_and_a_label_is_refused(dataset, message):
    message = rf"dataset must be pairs of a PIL image and a label, but {message}.*; give a folder"
    with pytest.raises(InvalidValueError, match=message):
        labelled_images(dataset)


def test_numbers_need_class_names():
    with pytest.raises(InvalidValueError, match="class_names must name the class of label 0") as e:
        labelled_images(Torchvision([0, 1, 0, 1], classes=None))
    assert e.value.argument == "class_names"
    assert "order of the labels" in e.value.remedy
    data = hugging_face([0, 1, 0, 1], "number")
    with pytest.raises(InvalidValueError, match=r"class_names must name .* label 0 \(item 0\)"):
        labelled_images(data)
    assert set(labelled_images(data, NAMES).table["label"]) == set(NAMES)


@pytest.mark.parametrize("label", [2, -1])
def test_number_without_a_class_name_is_refused(label):
    with pytest.raises(InvalidValueError, match=rf"the class of label {label} \(item 1\)"):
        labelled_images(Torchvision([0, label, 0, 1]))


@pytest.mark.parametrize("label", [None, ["coat"]])
def test_label_that_is_neither_a_name_nor_a_number_is_refused(label):
    with pytest.raises(InvalidValueError, match=r"labels that are names or numbers, but .* item 0"):
        labelled_images([(PICTURES[0], label)])


@pytest.mark.parametrize(("labels", "found"), [([], r"\[\]"), (["coat", "coat"], r"\['coat'\]")])
def test_fewer_than_two_classes_are_refused(labels, found):
    pairs = list(zip(PICTURES, labels, strict=False))
    with pytest.raises(InvalidValueError, match=rf"at least two classes, got {found}"):
        labelled_images(pairs)


def test_class_whose_images_are_all_ambiguous_is_lost(caplog):
    pairs = [(PICTURES[0], "a"), (PICTURES[0], "b"), (PICTURES[1], "a")]
    with pytest.raises(InvalidValueError, match=r"at least two classes, got \['a'\]"):
        labelled_images(pairs)
    assert "several classes: item 0, item 1" in caplog.text


def test_image_that_cannot_be_decoded_is_named_by_its_item():
    short = io.BytesIO(encode_png(picture(1, 64, 64))[:-100])
    pairs = [(PICTURES[0], "coat"), (Image.open(short), "bag")]
    with pytest.raises(InvalidValueError, match=r"dataset must .* item 1 is not \("):
        labelled_images(pairs)


def test_errors_of_a_path_speak_of_the_data_set(tmp_path):
    with pytest.raises(MissingFileError, match=r"dataset must be an existing .*nowhere") as caught:
        labelled_images(tmp_path / "nowhere")
    assert caught.value.argument == "dataset"
    with pytest.raises(InvalidValueError, match="dataset must have a sub-folder per class"):
        labelled_images(tmp_path)


@pytest.mark.parametrize("column", ["label", "fine_label"])
def test_hugging_face_data_set_without_labels_or_images_names_its_columns(column):
    data = hugging_face([*NAMES, *NAMES], "text", column=column)
    assert labels_of(labelled_images(data)) == EXPECTED
    for name in ("photo", column):
        with pytest.raises(InvalidValueError, match="an image column and a column `label`, got"):
            labelled_images(data.remove_columns(name))


def test_broken_image_of_a_folder_has_a_remedy_without_parameters(tmp_path):
    for name, colour in (("coat", "blue"), ("bag", "red")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), colour).save(tmp_path / name / "a.png")
    (tmp_path / "coat/b.png").write_bytes(b"no image")
    with pytest.raises(InvalidValueError, match=r"repair or remove them$") as error:
        labelled_images(tmp_path)
    assert error.value.argument == "dataset"


# Hugging Face


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_columns_of_a_hugging_face_data_set_that_are_not_read_are_named(caplog):
    datasets = pytest.importorskip("datasets")
    classes, image = datasets.ClassLabel(names=list(NAMES)), datasets.Image()
    kinds = {"mask": image, "image": image, "coarse": classes, "label": classes}
    cells = [{"bytes": encode_png(one), "path": None} for one in PICTURES]
    columns = {"mask": cells[::-1], "image": cells, "coarse": [0] * 4, "label": [0, 1, 0, 1]}
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    assert labels_of(labelled_images(data)) == EXPECTED
    assert "images are those of the column image, and not of mask" in caplog.text
    assert "labels are those of the column label, and not of coarse" in caplog.text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face_images_are_read_as_files_are():
    data = hugging_face([0, 1, 0, 1], "names")
    cells = data.cast_column("photo", type(data.features["photo"])(decode=False))["photo"]
    webp = io.BytesIO()
    PICTURES[0].save(webp, "WEBP", lossless=True, exif=b"no header at all")
    cells = [{"bytes": webp.getvalue(), "path": None}, *cells[1:]]
    columns = {"photo": cells, "label": [0, 1, 0, 1]}
    assert labels_of(labelled_images(data.from_dict(columns, features=data.features))) == EXPECTED


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transform_of_a_hugging_face_data_set_is_applied():
    data = hugging_face([0, 1, 0, 1], "names")
    small = data.with_transform(
        lambda rows: rows | {"photo": [p.resize((6, 4)) for p in rows["photo"]]}
    )
    sizes = {decode_image(png).size for png in labelled_images(small).table["png"]}
    assert sizes == {(4, 4)}


@pytest.mark.parametrize("label", [0.5, float("nan"), ""])
def test_label_that_names_no_class_is_refused(label):
    with pytest.raises(InvalidValueError, match=r"labels that are names or numbers, but .* item 0"):
        labelled_images([(PICTURES[0], label)], NAMES)
