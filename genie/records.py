"""The tables and records that flow between stages, and their files."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from genie.errors import GenieError

IMAGE_COLUMNS = ("image_id", "label", "png")
TASK_COLUMNS = ("task", "role", "image_id", "label")
SOURCE_COLUMNS = ("task", "target", "source", "rank")
PREDICTION_COLUMNS = ("task", "image_id", "label", "predicted", "probability")
CONFUSION_COLUMNS = ("task", "label", "predicted", "probability")
MEMBER_COLUMNS = ("task", "label", "key", "file_name", "r", "source_id", "source_label")
METADATA_COLUMNS = (
    "file_name",
    "label",
    "key",
    "image_id",
    "method",
    "source_id",
    "source_label",
    "prompt",
    "negative_prompt",
    "r",
    "seed",
    "replicate",
    "steps",
    "guidance_scale",
    "scheduler",
    "generator",
    "fingerprint",
)
MIXTURE_COLUMNS = ("task", "file_name", "label", "level", "share")
CAPTION_COLUMNS = ("image_id", "label", "caption")
CONTEXT_COLUMNS = ("class", "prompt", "negative")
VERDICT_COLUMNS = ("key", "label", "verdict", "probability", "consistent")


@dataclass(frozen=True)
class Request:
    """One image to render: the source noised to ratio r and denoised under the prompt.

    `source_id` and `source_label` are None for text-to-image. r is in (0, 1]. The noise is keyed
    by (seed, source, target, replicate), so all levels of one pair share one noise sample.
    """

    source_id: str | None
    source_label: str | None
    target_label: str
    prompt: str
    negative_prompt: str
    r: float
    replicate: int
    seed: int


Candidates = tuple[Request, ...]
"""The requests that compete to become one image, levels ascending."""


def image_id(image: Image.Image) -> str:
    """SHA-256 (hex) of the size and RGB bytes: the picture's identity, whatever file held it."""
    size = f"{image.width}x{image.height}".encode()
    return hashlib.sha256(size + image.convert("RGB").tobytes()).hexdigest()


def encode_png(image: Image.Image) -> bytes:
    """The image as RGB PNG bytes, the same bytes every time."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_png(png: bytes) -> Image.Image:
    """RGB image from PNG bytes."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def write_images(table: pd.DataFrame, folder: Path) -> None:
    """Write an images table to `folder/images.parquet`."""
    folder.mkdir(parents=True, exist_ok=True)
    table.loc[:, list(IMAGE_COLUMNS)].to_parquet(folder / "images.parquet", index=False)


def read_images(folder: Path) -> pd.DataFrame:
    """Images table of `folder/images.parquet`; GenieError if the file or a column is missing."""
    path = folder / "images.parquet"
    _require_file(path)
    return _require_columns(pd.read_parquet(path), IMAGE_COLUMNS, path)


def write_table(table: pd.DataFrame, path: Path, *, columns: tuple[str, ...]) -> None:
    """Write a CSV with fixed column order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.loc[:, list(columns)].to_csv(path, index=False, lineterminator="\n")


def read_table(path: Path, *, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV; GenieError naming file and column if one of `columns` is missing.

    Class names stay strings, also those that look like numbers or like missing values ("None").
    """
    _require_file(path)
    text = {c: str for c in columns if c in _TEXT}
    empty = {c: [""] for c in _NUM}
    try:
        table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=empty)
    except ValueError as error:  # pandas' own errors and wrong encodings
        raise GenieError(
            f"{path} must be a CSV file in UTF-8 with the columns {', '.join(columns)}, but: "
            f"{' '.join(str(error).split())}; quote fields that hold commas"
        ) from None
    return _require_columns(table, columns, path)


_TEXT = {
    *("role", "image_id", "label", "target", "source", "predicted", "key", "file_name"),
    *("source_id", "source_label", "prompt", "negative_prompt", "verdict", "method"),
    *("class", "name", "caption", "negative", "image_id", "level"),
}
_NUM = ("r", "probability", "rank", "guidance_scale")


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise GenieError(f"{path} does not exist; run `dvc repro` to make it")


def _require_columns(table: pd.DataFrame, columns: tuple[str, ...], path: Path) -> pd.DataFrame:
    missing = [c for c in columns if c not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns))
        raise GenieError(f"{path} must have the column {missing[0]!r}, found only: {found}")
    return table.loc[:, list(columns)]
