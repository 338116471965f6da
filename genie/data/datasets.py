"""Labelled images from folders, lists, torchvision data sets and Hugging Face `datasets`."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from genie.core.errors import GenieError, InvalidValueError, one_line
from genie.core.tables import IMAGES
from genie.data.depth import Source, common_depth, undeclared_depth
from genie.data.images import encode_png, image_id, to_square_rgb
from genie.data.licence import licence_text
from genie.data.readers import IMAGE_NAMES, LABEL_NAMES, drop_duplicates, open_square, read_pools

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledImages:
    """Square RGB images and their class names.

    `table` has the columns of IMAGES. `label_of` maps class names to the labels in the data set,
    which may be numbers. `licence` is the text of the folder's licence files.
    """

    table: pd.DataFrame
    label_of: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""


def labelled_images(dataset: Any, class_names: Sequence[str] | None = None) -> LabelledImages:
    """Read the images of a data set in any of these forms:

    - the path of a folder with a sub-folder per class, of a Parquet file, or of a saved data set;
      if there are several splits, only `train` is read
    - a sequence of (PIL image, label), such as a list or a torchvision data set; integer labels
      need class names, from `class_names` or from the data set's `classes`
    - a `datasets.Dataset` with an image column and a column of labels

    Images are cropped to their central square, as everywhere in this library. Duplicates are
    dropped with a warning. Raise MissingFileError if a path does not exist, and InvalidValueError
    for any other form, or if `class_names` is given with a path.
    """
    if isinstance(dataset, str | Path):
        if class_names is not None:
            raise InvalidValueError(
                "must be left out with a path, whose folders or tables name the classes",
                argument="class_names",
                value=list(class_names),
            )
        return _at_path(Path(dataset))
    if hasattr(dataset, "features"):
        pairs, names = _hugging_face(dataset)
        kinds: tuple[type, ...] = (Image.Image, bytes, Path)
    else:
        pairs, names = dataset, getattr(dataset, "classes", None)
        kinds = (Image.Image,)
    names = class_names or names
    rows, deep = [], []
    label_of: dict[str, Any] = {}
    for number, (image, label) in enumerate(_pairs(pairs, kinds)):
        name = _name(label, names, number)
        label_of[name] = label
        if undeclared_depth(image):  # needs the depth of all
            deep.append((number, image, name))
        else:
            rows.append(_row(number, image, name))
    depth = common_depth([image for _, image, _ in deep], "dataset")
    rows += [_row(*one, depth=depth) for one in deep]
    table = pd.DataFrame(rows, columns=[*IMAGES, "where"])
    table = table.sort_values(["label", "image_id", "where"], ignore_index=True)
    distinct = drop_duplicates(table, "dataset")
    _require_classes(distinct)
    return LabelledImages(distinct, label_of)


def _at_path(path: Path) -> LabelledImages:
    try:
        support, _ = read_pools(path)
    except GenieError as error:
        if error.argument == "path":
            error.argument = "dataset"
        if "`broken`" in error.remedy:  # a setting that only the pipeline has
            error.remedy = "repair or remove them"
        raise
    return LabelledImages(support, licence=licence_text(path))


def _pairs(dataset: Iterable[Any], kinds: tuple[type, ...]) -> Iterator[tuple[Any, Any]]:
    try:
        items = iter(dataset)
    except TypeError:
        raise _not_pairs(f"{type(dataset).__name__} is no sequence") from None
    for number, item in enumerate(items):
        if not isinstance(item, Sequence) or isinstance(item, str | bytes) or len(item) != 2:
            raise _not_pairs(f"item {number} is {_kind(item)}")
        image, label = item
        if not isinstance(image, kinds):
            raise _not_pairs(f"item {number} has {_kind(image)} in place of the image")
        yield image, label


def _not_pairs(why: str) -> InvalidValueError:
    return InvalidValueError(
        f"must be pairs of a PIL image and a label, but {why}",
        argument="dataset",
        remedy="give a folder, a list of pairs, a torchvision data set without a transform, or a "
        "datasets.Dataset",
    )


def _kind(value: object) -> str:
    """Return the type of a value as a noun phrase for messages."""
    name = type(value).__name__
    article = "an" if name[0].lower() in "aeiou" else "a"
    return f"{article} {name}" + (f" of {len(value)}" if isinstance(value, Sequence) else "")


def _name(label: Any, names: Sequence[str] | None, number: int) -> str:
    """Return the class name of a label; raise an error for an integer without a class name."""
    if isinstance(label, str) and label:
        return label
    try:
        index = int(label)
        if index != label:
            raise ValueError
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise InvalidValueError(
            f"must have labels that are names or numbers, but the label of item {number} is "
            f"{_kind(label)}",
            argument="dataset",
        ) from None
    if names is None or not 0 <= index < len(names):
        raise InvalidValueError(
            f"must name the class of label {index} (item {number})",
            argument="class_names",
            remedy="give the class names in the order of the labels, because prompts need them",
        )
    return str(names[index])


def _row(
    number: int, image: Source, name: str, *, depth: int | None = None
) -> tuple[str, str, bytes, str]:
    """Return the (image_id, label, png, where) of an item."""
    rgb = _square(image, number, depth)
    return image_id(rgb), name, encode_png(rgb), f"item {number}"


def _square(image: Source, number: int, depth: int | None) -> Image.Image:
    try:
        if isinstance(image, Image.Image):
            return to_square_rgb(image, depth=depth)
        return open_square(image, size=None, depth=depth)
    except Exception as error:  # decoders can raise anything on damaged bytes
        raise InvalidValueError(
            f"must have only readable images, but item {number} is not ({one_line(error)})",
            argument="dataset",
        ) from error


def _require_classes(table: pd.DataFrame) -> None:
    if table["label"].nunique() < 2:
        raise InvalidValueError(
            "must have images of at least two classes",
            argument="dataset",
            value=sorted(set(table["label"])),
            remedy="add some",
        )


def _hugging_face(dataset: Any) -> tuple[Iterable[Any], Sequence[str] | None]:
    """Return the (image, label) pairs of a `datasets.Dataset`, and names for integer labels."""
    kinds = {name: type(feature).__name__ for name, feature in dataset.features.items()}
    images = [name for name in IMAGE_NAMES if kinds.get(name) == "Image"]
    images += [name for name, kind in kinds.items() if kind == "Image" and name not in images]
    labels = [name for name in LABEL_NAMES if name in kinds]
    labels += [name for name, kind in kinds.items() if kind == "ClassLabel" and name not in labels]
    if not images or not labels:
        raise InvalidValueError(
            "must have an image column and a column `label`",
            argument="dataset",
            value=kinds,
            remedy="rename or cast the columns",
        )
    for what, (taken, *others) in (("images", images), ("labels", labels)):
        if others:
            log.warning(
                "dataset: %s are those of the column %s, and not of %s",
                what,
                taken,
                ", ".join(others),
            )
    names = getattr(dataset.features[labels[0]], "names", None)
    return _sources(dataset, images[0], labels[0]), names


def _sources(dataset: Any, images: str, labels: str) -> Iterator[tuple[Any, Any]]:
    """Yield (image, label) pairs; images are encoded unless the data set has a transform."""
    feature = dataset.features[images]
    plain = not (getattr(dataset, "format", None) or {}).get("type") and feature.mode is None
    if plain:
        dataset = dataset.cast_column(images, type(feature)(decode=False))
    for item in dataset:
        cell = item[images]
        if plain and cell is not None:
            path = cell["path"] or ""
            local = Path(path) if os.path.exists(path) else None
            cell = cell["bytes"] or local or feature.decode_example(cell)
        yield cell, item[labels]
