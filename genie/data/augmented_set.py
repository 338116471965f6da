"""The augmentation set: generated images with their labels and provenance, in memory or on disk.

On disk, the set consists of images, `metadata.csv`, `members.csv`, `trajectories.parquet` and a
data card. With one file per image, the folder is a valid Hugging Face `imagefolder` data set and a
torchvision ImageFolder tree, so other tools can load it directly. With shards, the folder loads as
a Parquet data set.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from operator import index as as_index
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from PIL import Image

from genie.core.errors import InvalidValueError, MissingFileError, one_line
from genie.core.tables import (
    MEMBERS,
    METADATA,
    TRAJECTORIES,
    empty,
    inside,
    read_table,
    write_table,
)
from genie.data.card import SetFacts, data_card
from genie.data.images import decode_image, image_id
from genie.data.pictures import Pictures
from genie.data.prompts import slug
from genie.data.shards import ShardRow, Shards, is_shard, shard_files, write_shards

CARD = "README.md"
LABELS = "labels.json"
"""File of the item labels by class name, written if labels are not the class names."""

_KEY = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Provenance:
    """Provenance that all images in a set share.

    `generator` is the name of the model's folder, and `fingerprint` the hash of its files.
    """

    method: str
    guidance_scale: float
    scheduler: str
    generator: str
    fingerprint: str


@dataclass(frozen=True, eq=False)
class AugmentedSet(Sequence[tuple[Image.Image, Any]]):
    """A map-style data set of generated images: item i is (PIL image, label).

    - `members`: one row per use of an image in a task (columns of MEMBERS)
    - `metadata`: one row per image, in item order (columns of METADATA)
    - `trajectories`: one row per candidate noise level (columns of TRAJECTORIES); empty if the set
      was loaded without them
    - `classes`: the class names, sorted
    - `png_of`: a function from a file name to the PNG bytes of the image
    - `label_of`: item labels by class name, such as class indices; classes that are not listed are
      labelled by name
    - `facts`: facts for the data card that are not in the tables
    - `copied`: further files that are saved with the set, such as learned tokens
    - `folder`: the folder that the set was loaded from, if any
    - `transform`: a function that is applied to each image (see `with_transform`)
    """

    members: pd.DataFrame
    metadata: pd.DataFrame
    trajectories: pd.DataFrame
    classes: tuple[str, ...]
    png_of: Callable[[str], bytes]
    label_of: Mapping[str, Any] = field(default_factory=dict)
    facts: SetFacts = field(default_factory=SetFacts)
    copied: Sequence[Path] = ()
    folder: Path | None = None
    transform: Callable[[Image.Image], Any] | None = None

    def __repr__(self) -> str:
        return f"AugmentedSet({len(self)} images of {len(self.classes)} classes)"

    def __len__(self) -> int:
        return len(self.metadata)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:  # type: ignore[override]
        row = self.metadata.iloc[as_index(index)]
        label, file_name = str(row["label"]), str(row["file_name"])
        if self.folder is None:
            image = decode_image(self.png_of(file_name))
        else:
            image = _read_image(self.folder, self.png_of, file_name)
        shown = image if self.transform is None else self.transform(image)
        return shown, self.label_of.get(label, label)

    @cached_property
    def soft_labels(self) -> np.ndarray | None:
        """The soft labels as float32 weights of `classes` (n, c), or None if all labels are hard.

        The label gets the weight `target_weight`, and the source's class the remaining weight.
        """
        weights = self.metadata["target_weight"].to_numpy(np.float32)
        if (weights == 1).all():
            return None
        column = {name: i for i, name in enumerate(self.classes)}
        soft = np.zeros((len(self), len(self.classes)), np.float32)
        soft[np.arange(len(self)), [column[name] for name in self.metadata["label"]]] = weights
        rest = np.flatnonzero(weights < 1)
        sources = self.metadata["source_label"].iloc[rest]
        soft[rest, [column[name] for name in sources]] += 1 - weights[rest]
        return soft

    def save(self, folder: str | Path, *, shards: int | None = None) -> None:
        """Write the set to a folder, replacing an earlier set in it.

        With `shards`, images are written to Parquet files with `shards` images each. By default,
        each image is a file. The tables are the same in both cases. Raise InvalidValueError if the
        folder contains other files, which are left unchanged, or if the set was loaded from it.
        """
        folder = Path(folder)
        if self.folder is not None and folder.resolve() == self.folder.resolve():
            raise InvalidValueError(
                "must not be the folder that the set was loaded from, because its images are "
                "loaded lazily",
                argument="folder",
                value=str(folder),
                remedy="choose another folder",
            )
        _require_own(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _remove_images(folder)
        if shards is None:
            _write_files(self._rows(), folder)
        else:
            write_shards(self._rows(), folder, size=shards)
        for file in self.copied:
            (folder / file.name).write_bytes(file.read_bytes())
        write_table(self.metadata, folder / "metadata.csv", METADATA)
        write_table(self.members, folder / "members.csv", MEMBERS)
        write_table(self.trajectories, folder / "trajectories.parquet", TRAJECTORIES)
        card = data_card(
            self.metadata,
            self.members,
            self.trajectories,
            self.facts,
            sharded=shards is not None,
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        (folder / LABELS).unlink(missing_ok=True)
        if self.label_of:
            (folder / LABELS).write_text(json.dumps(dict(self.label_of), indent=1) + "\n")

    def with_transform(self, transform: Callable[[Image.Image], Any]) -> Self:
        """Return the set with a function applied to each image, such as a conversion to tensors."""
        return replace(self, transform=transform)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a set that `save` or the stage `generate` wrote, including sets from version 0.1.

        Each image is read from disk when its item is accessed. Raise MissingFileError if a table is
        missing, and InvalidValueError if a table or a shard is damaged.
        """
        folder = Path(folder)
        if not (folder / "metadata.csv").is_file():
            raise MissingFileError(
                f"must be the folder of an augmentation set, but {folder} has no metadata.csv",
                argument="folder",
                remedy="name a folder that `save` or the stage `generate` wrote",
            )
        metadata = read_table(folder / "metadata.csv", METADATA)
        labels = folder / LABELS
        label_of = json.loads(labels.read_text()) if labels.is_file() else {}
        path = folder / "trajectories.parquet"
        levels = read_table(path, TRAJECTORIES) if path.is_file() else empty(TRAJECTORIES)
        named = {*metadata["label"], *metadata["source_label"], *levels["target_label"], *label_of}
        method = str(metadata["method"].iloc[0]) if len(metadata) else ""
        return cls(
            members=read_table(folder / "members.csv", MEMBERS),
            metadata=metadata,
            trajectories=levels,
            classes=tuple(sorted(str(name) for name in named - {""})),
            png_of=_png_reader(folder),
            label_of=label_of,
            facts=SetFacts(method=method),
            folder=folder,
        )

    def _rows(self) -> Iterator[ShardRow]:
        for row in self.metadata.itertuples():
            name = str(row.file_name)
            yield ShardRow(name, str(row.label), self.png_of(name))


def set_of(
    levels: pd.DataFrame,
    provenance: Provenance,
    *,
    png_of: Callable[[str], bytes],
    classes: Iterable[str],
) -> AugmentedSet:
    """Return the set of the images at the chosen levels.

    `levels` has the columns of TRAJECTORIES, the fields of the requests, and target_weight.
    `png_of` returns the PNG bytes of the image with a given key.
    """
    chosen = levels[levels["chosen"].astype(bool)].rename(columns={"target_label": "label"})
    names = [
        f"{slug(label)}/{key}.png" for label, key in zip(chosen.label, chosen.key, strict=True)
    ]
    members = chosen.assign(file_name=names)
    images = members.drop_duplicates("file_name").sort_values("file_name")
    # later stages depend on metadata.csv, so it must change whenever the pixels of an image change
    contents = [image_id(decode_image(png_of(key))) for key in images["key"]]
    metadata = images.assign(**asdict(provenance), image_id=contents)
    key_of = dict(zip(images["file_name"], images["key"], strict=True))
    return AugmentedSet(
        members=members.loc[:, list(MEMBERS)],
        metadata=metadata.loc[:, list(METADATA)].reset_index(drop=True),
        trajectories=levels.loc[:, list(TRAJECTORIES)],
        classes=tuple(sorted(classes)),
        png_of=partial(_png_by_key, png_of, key_of),
    )


def read_set(folder: Path, members: pd.DataFrame) -> tuple[list[str], Pictures]:
    """Return the set's distinct file names, sorted, and the images in the same order."""
    files = sorted(set(members["file_name"]))
    return files, Pictures(image_reader(folder), files)


def image_reader(folder: Path) -> Callable[[str], Image.Image]:
    """Return a function that reads an image of the set by file name, from a file or a shard.

    The function raises InvalidValueError if the name points outside the folder, or if the image is
    missing or damaged. Raise InvalidValueError immediately for a damaged shard.
    """
    return partial(_read_image, folder, _png_reader(folder))


def _png_reader(folder: Path) -> Callable[[str], bytes]:
    """Return a function that reads the PNG bytes of an image by file name."""
    shards = shard_files(folder)
    return Shards(shards).png if shards else partial(_png_in_file, folder)


def _png_in_file(folder: Path, name: str) -> bytes:
    return inside(folder, name).read_bytes()


def _png_by_key(png_of: Callable[[str], bytes], key_of: Mapping[str, str], name: str) -> bytes:
    return png_of(key_of[name])


def _read_image(folder: Path, png_of: Callable[[str], bytes], name: str) -> Image.Image:
    path = inside(folder, name)
    try:
        return decode_image(png_of(name))
    except Exception as error:  # decoders can raise anything on damaged bytes
        raise InvalidValueError(
            f"must be an image of the set, but: {one_line(error)}",
            argument=str(path),
            remedy="run `genie verify --repair`, then `dvc repro`",
        ) from error


def _write_files(rows: Iterable[ShardRow], folder: Path) -> None:
    for row in rows:
        path = folder / row.file_name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(row.png)


def _require_own(folder: Path) -> None:
    """Raise InvalidValueError if a folder contains files that are not from an augmentation set."""
    tables = {"metadata.csv", "members.csv", "trajectories.parquet", CARD, LABELS}
    listed = set()
    if (folder / "metadata.csv").is_file():
        listed = set(read_table(folder / "metadata.csv", {"file_name": str})["file_name"])
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        ours = (
            path.is_dir()
            or path.name.startswith(".")  # such as .DS_Store
            or name in tables | listed
            or is_shard(name)
            or (path.suffix == ".png" and _KEY.fullmatch(path.stem) and name.count("/") == 1)
            or (path.suffix == ".safetensors" and name.startswith("token-"))
        )
        if not ours:
            raise InvalidValueError(
                f"must be a new or empty folder, or one of an earlier set, but {folder} has {name}",
                argument="folder",
                remedy="choose another folder; nothing was changed in this one",
            )


def _remove_images(folder: Path) -> None:
    """Remove the images or shards of an earlier run, which may be hard links to DVC's cache."""
    files = list(folder.glob("*/*.png"))
    for path in (*files, *shard_files(folder)):
        path.unlink()
    for parent in {path.parent for path in files}:
        if not any(parent.iterdir()):
            parent.rmdir()
