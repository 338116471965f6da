"""Rules for image folders: which files are images, and which folders are splits or classes.

The reader, DVC (.dvcignore) and copies all ignore hidden files, hidden folders and system folders
at any depth. Links are followed.
"""

import csv
import functools
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from genie.core.errors import InvalidValueError, one_line
from genie.core.tables import inside
from genie.data.prompts import class_name

with suppress(ImportError):  # an extra: .heic and .heif
    import pillow_heif

    pillow_heif.register_heif_opener()

LABEL_NAMES = ("label", "labels", "class", "fine_label")

USUAL = ".bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp or another ending that Pillow reads"
"""The usual file endings of images, for messages."""

HEIF = (".heic", ".heif", ".hif")

_UNREADABLE = {"BUFR", "EMF", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow recognises but cannot read itself, or reads only on Windows."""

_TECHNICAL = {
    *("$RECYCLE.BIN", "System Volume Information", "lost+found", "Thumbs.db", "desktop.ini"),
    *("@eaDir", "#recycle", "#snapshot"),  # of network drives
}
"""Folders and files that operating systems create. .dvcignore lists them too."""

_METADATA = ("metadata.csv", "metadata.jsonl")

_SPLITS = {  # as in `datasets`, and some compounds
    "train": {"train", "training", "trainset", "trainval"},
    "validation": {"validation", "valid", "val", "valset", "dev"},
    "test": {"test", "testing", "testset", "eval", "evaluation"},
}


# Files


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and its sub-folders, sorted.

    Links without a target are included if their names end like those of images.
    """
    return [file for file in data_files(folder) if is_image_file(file)]


def data_files(folder: Path) -> list[Path]:
    """Return the files in a folder and its sub-folders, sorted, without hidden and system files.

    Raise InvalidValueError for a folder that cannot be read, a link to a folder that contains the
    link, or a link without a target. Links that end like images are returned even without a target,
    and reported when they are read.
    """
    return sorted(_walk(folder, ()))


def is_image_file(file: Path) -> bool:
    """Return whether a file has the ending of an image format that Pillow reads."""
    return file.suffix.lower() in _endings()


def others_by_ending(files: Iterable[Path]) -> str:
    """Count the files that are not images by ending, for example `10 .heic, 1 .txt`."""
    kinds = Counter(f.suffix.lower() or "without an ending" for f in files if not is_image_file(f))
    shown = [f"{count} {ending}" for ending, count in kinds.most_common(5)]
    if more := kinds.total() - sum(count for _, count in kinds.most_common(5)):
        shown.append(f"{more} others")
    if any(ending in kinds for ending in HEIF):
        shown[-1] += " (`pip install pillow-heif` to read HEIF)"
    return ", ".join(shown)


def linked_folders(folder: Path) -> list[Path]:
    """Return the links to folders in a folder and its sub-folders.

    DVC does not follow such links, so it does not notice changes in their targets.
    """
    found = []
    for place in sub_folders(folder):
        found += [place] if place.is_symlink() else linked_folders(place)
    return found


def read_file(file: Path) -> bytes:
    """Read a file; the error for a broken link names the missing target."""
    if file.is_symlink() and not file.exists():
        raise InvalidValueError(f"links to {os.readlink(file)}, which does not exist")
    return file.read_bytes()


@functools.cache
def _endings() -> frozenset[str]:
    Image.init()
    kinds = Image.registered_extensions()
    read = Image.OPEN.keys() - _UNREADABLE | {"MPO"}  # which Pillow opens as JPEG
    return frozenset(ending for ending, kind in kinds.items() if kind in read)


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above or any(parent.startswith(f"{real}{os.sep}") for parent in above):
        raise InvalidValueError(
            f"must have no link to a folder that contains it, but {folder} links to {real}",
            argument="path",
            remedy="remove the link",
        )
    for entry in _entries(folder):
        if _is_hidden(entry.name):
            continue
        if _is_dead(entry) or entry.is_file():
            yield folder / entry.name
        elif entry.is_dir() and not _passed_over(entry.name):
            yield from _walk(folder / entry.name, (*above, real))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InvalidValueError(
            f"must have folders that can be read, but {folder} cannot ({one_line(error)})",
            argument="path",
            remedy="change its permissions or remove it",
        ) from error


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _TECHNICAL


def _passed_over(name: str) -> bool:
    """Return whether a folder with this name is ignored."""
    return _is_hidden(name) or name.startswith("__")


def _is_dead(entry: os.DirEntry[str]) -> bool:
    """Return whether a link has no target; raise an error if the target may have been a folder."""
    if not entry.is_symlink() or os.path.exists(entry.path):
        return False
    if is_image_file(Path(entry.name)):
        return True
    raise InvalidValueError(
        f"must have only links whose targets exist, but {entry.path} links to "
        f"{os.readlink(entry.path)}",
        argument="path",
        remedy="restore the target or remove the link",
    )


# Splits


@dataclass(frozen=True)
class Splits:
    """The folder of the training split, and the folder with the query images or None.

    `notes` name other folders and files that were found.
    """

    train: Path
    query: Path | None
    notes: tuple[str, ...] = ()


def find_splits(path: Path) -> Splits | None:
    """Return the split folders of a data folder, or None if its folders are classes.

    As in `datasets`, a name has a keyword (train, training; validation, valid, val, dev; test,
    testing, eval, evaluation) between blanks, digits or `-._`, in upper or lower case, such as
    `Train`, `seg_test` or `val2017`. A split contains class folders, Parquet files or a table of
    labels, so a folder of images with such a name is a class. Without a test split, the validation
    split contains the query images. Raise InvalidValueError if it is not clear whether folders are
    splits or classes.
    """
    folders = sub_folders(path)
    pools = {f: split for f in folders if (split := split_of(f.name)) and _is_pool(f)}
    exact = [f for f in pools if _is_exact(f.name)]
    if not pools:
        return None
    rest = [f for f in folders if f not in pools and has_images(f)]
    if rest and not exact and len(set(pools.values())) == 1:
        return None  # a class such as `freight train`, with folders in it
    bare = [f for f in rest if split_of(f.name)]
    if classes := [f for f in rest if f not in bare]:
        raise _ambiguous(
            path,
            f"has {_named(classes)} beside the splits {_named(pools)}",
            "move other folders elsewhere, or rename a class that has the name of a split",
        )
    by_split: dict[str, Path] = {}
    for folder, split in pools.items():
        if split in by_split:
            raise _ambiguous(
                path,
                f"has several folders for the split {split}: {_named([by_split[split], folder])}",
                "join them, or remove all but one",
            )
        by_split[split] = _inner(folder)
    if "train" not in by_split:
        raise _ambiguous(
            path,
            f"has {_named(pools)} without train/",
            "rename one to train, or set `path` to one of them",
        )
    return _chosen(by_split, bare)


def split_of(name: str) -> str | None:
    """Return the split that a name stands for (train, validation or test), or None."""
    words = set(_words(name))
    found = [split for split, keywords in _SPLITS.items() if words & keywords]
    if found == ["train", "validation"]:  # both together are what one trains on
        return "train"
    return found[0] if len(found) == 1 else None


def _chosen(by_split: dict[str, Path], bare: list[Path]) -> Splits:
    query = by_split.get("test") or by_split.get("validation")
    notes = [
        f"left out {len(image_files(f))} images in {f}, which has no class folders" for f in bare
    ]
    if validation := by_split.get("validation"):
        count = len(image_files(validation))
        if query is validation:
            notes.append(f"no test split, so queries are from {validation} ({count} images)")
        else:
            notes.append(f"left out the validation split {validation} ({count} images)")
    return Splits(by_split["train"], query, tuple(notes))


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[-._ 0-9]+", name.lower()) if word]


def _is_exact(name: str) -> bool:
    """Return whether a name consists only of a split's keyword, as in `Train` or `val2017`."""
    return len(_words(name)) == 1 and split_of(name) is not None


def _is_pool(folder: Path) -> bool:
    """Return whether a folder is a pool with folders, Parquet files or labels, and not a class."""
    return bool(
        sub_folders(folder) or any(folder.glob("*.parquet")) or metadata_labels(folder) is not None
    )


def _inner(folder: Path) -> Path:
    """Return the inner folder if a split is nested in a folder of the same name (train/train/)."""
    found = sub_folders(folder)
    if len(found) == 1 and split_of(found[0].name) == split_of(folder.name):
        return _inner(found[0]) if _is_pool(found[0]) else folder
    return folder


def _ambiguous(path: Path, what: str, remedy: str) -> InvalidValueError:
    return InvalidValueError(
        f"must have class folders, or splits with class folders in them, but {path} {what}",
        argument="path",
        remedy=remedy,
    )


def _named(folders: Iterable[Path]) -> str:
    names = [f"{folder.name}/" for folder in folders]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# Classes


def sub_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden and system folders.

    Raise InvalidValueError for a link without a target, because the target may have been a class.
    """
    visible = [entry for entry in _entries(folder) if not _passed_over(entry.name)]
    return sorted(folder / e.name for e in visible if not _is_dead(e) and e.is_dir())


def has_images(folder: Path) -> bool:
    """Return whether there is an image file in a folder or its sub-folders."""
    return any(is_image_file(file) for file in _walk(folder, ()))


def labelled_files(folder: Path) -> tuple[dict[Path, str], list[str]]:
    """Return the labels of a pool's image files, and notes on files that are left out.

    Labels are the names of class folders, or come from a table. Raise InvalidValueError if there
    are no classes, if a class has no images, or if the folders are splits without classes.
    """
    notes = []
    files, labels = data_files(folder), metadata_labels(folder)
    if labels is None:
        classes = _class_folders(folder)
        labels = _labels_by_folder(files, {place: _class_of(place) for place in classes})
        notes = [_classes_note(classes), _hidden_note(folder)]
        placed = [file for file in files if file.parent != folder]
        if others := others_by_ending(placed):
            notes.append(f"left out files that do not end as images do: {others}")
    if loose := [file for file in files if is_image_file(file) and file not in labels]:
        notes.append(f"left out {len(loose)} images without a class, the first is {loose[0]}")
    return labels, [note for note in notes if note]


def _labels_by_folder(files: list[Path], classes: dict[Path, str]) -> dict[Path, str]:
    by_class: dict[Path, list[Path]] = {place: [] for place in classes}
    for file in files:
        for place in file.parents:
            if place in by_class:
                by_class[place].append(file)
                break
    for place, found in by_class.items():
        if not any(is_image_file(file) for file in found):
            raise InvalidValueError(
                f"must have images in each class folder (files ending in {USUAL}), but {place} has "
                f"{others_by_ending(found) or 'none'}",
                argument="path",
                remedy="add some or remove the folder",
            )
    pairs = ((file, classes[place]) for place, found in by_class.items() for file in found)
    return {file: label for file, label in pairs if is_image_file(file)}


def _class_folders(folder: Path) -> list[Path]:
    classes = sub_folders(folder)
    if not classes:
        raise InvalidValueError(
            f"must have a sub-folder per class with files ending in {USUAL}, or Parquet files, but "
            f"found no images in {folder}",
            argument="path",
        )
    if _are_bare_splits(classes):
        raise InvalidValueError(
            f"must have class folders in each split, but {_named(classes)} in {folder} have images "
            "without classes",
            argument="path",
            remedy="sort them into a folder per class, or add metadata.csv with the columns "
            "file_name and label to each split; rename them if they are classes",
        )
    return classes


def _are_bare_splits(classes: list[Path]) -> bool:
    """Return whether most folders have the names of different splits, and so are not classes."""
    named = {f.name: split for f in classes if (split := split_of(f.name))}
    exact = {name: split for name, split in named.items() if _is_exact(name)}
    if len(named) == len(classes):
        return len(set(named.values())) > 1
    return len(set(exact.values())) > 1 and 2 * len(exact) > len(classes)


def _classes_note(classes: list[Path]) -> str:
    """Return a note if class folders look like parts of the data that contain the same classes."""
    inner = [{f.name for f in sub_folders(folder)} for folder in classes]
    same = len(classes) > 1 and len(inner[0]) > 1 and all(names == inner[0] for names in inner)
    if not same or any(is_image_file(f) for folder in classes for f in folder.iterdir()):
        return ""
    shared = _named(Path(name) for name in sorted(inner[0]))
    return (
        f"the classes are {_named(classes)}, and all have the folders {shared}; if these are the "
        "classes or the splits, move them up"
    )


def _hidden_note(folder: Path) -> str:
    """Return a note if hidden folders with images may be classes, such as `.net`."""
    hidden = (e.name for e in _entries(folder) if e.is_dir() and e.name.startswith((".", "__")))
    found = [folder / name for name in sorted(hidden) if has_images(folder / name)]
    return f"left out hidden folders with images: {_named(found)}" if found else ""


def _class_of(folder: Path) -> str:
    """Return the class name of a folder; raise InvalidValueError if it is not UTF-8."""
    label = class_name(folder.name)
    if not label.isprintable() and any(0xD800 <= ord(letter) < 0xE000 for letter in label):
        raise InvalidValueError(
            "must have class folders with names in UTF-8",
            argument="path",
            value=str(folder),
            remedy="rename the folder",
        )
    return label


# Labels in a table


def metadata_labels(folder: Path) -> dict[Path, str] | None:
    """Return the labels by file from a folder's metadata.csv or metadata.jsonl, as in `datasets`.

    The table has the columns file_name and label. Return None if there is no such table, or if
    class folders give the same labels. Raise InvalidValueError if folders and labels differ.
    """
    for table in (folder / name for name in _METADATA if (folder / name).is_file()):
        rows = _rows(table)
        column = next((name for name in LABEL_NAMES if rows and name in rows[0]), None)
        if column is None or "file_name" not in rows[0]:
            continue
        labels = {
            inside(folder, str(row.get("file_name"))): _label(row.get(column), column, row, table)
            for row in rows
        }
        return None if _same_as_folders(labels, folder, table) else labels
    return None


def _rows(table: Path) -> list[dict[str, object]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix == ".csv":
                return list(csv.DictReader(file))
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidValueError(
            f"must have a readable table of labels, but {table} is not ({one_line(error)})",
            argument="path",
        ) from error
    return [row for row in rows if isinstance(row, dict)]


def _label(label: object, column: str, row: dict[str, object], table: Path) -> str:
    if label in (None, "") or isinstance(label, list | dict):
        raise InvalidValueError(
            f"must have a class for each image, but {column} of {row.get('file_name')} in {table} "
            f"is {label!r}",
            argument="path",
        )
    return unicodedata.normalize("NFC", str(label))


def _same_as_folders(labels: dict[Path, str], folder: Path, table: Path) -> bool:
    """Return whether each class has its own folder.

    Raise InvalidValueError if there are several folders that do not match the labels.
    """
    pairs = {(file.relative_to(folder).parts[:-1][:1], label) for file, label in labels.items()}
    folders = {first for first, _ in pairs}
    if len(folders) < 2:
        return False
    if len(pairs) == len(folders) == len(set(labels.values())) and () not in folders:
        return True
    raise InvalidValueError(
        f"must have one label per class folder, but {table} has other labels than the folders of "
        f"{folder}",
        argument="path",
        remedy="remove the table, or move all images into one folder",
    )
