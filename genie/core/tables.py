"""Schemas of the tables that stages exchange, and functions to read and write these tables.

A schema maps column names to types, in file order. A text column is always read as text, because
"007" and "None" can be names of classes.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from genie.core.errors import InvalidValueError, MissingFileError, one_line

Schema = Mapping[str, type]

# data/prepared/
IMAGES: Schema = {"image_id": str, "label": str, "png": bytes}
SKIPPED: Schema = {"file": str, "label": str, "reason": str}
TASKS: Schema = {"task": int, "role": str, "image_id": str, "label": str}

# data/baseline/, data/sources/
PREDICTIONS: Schema = {
    "task": int,
    "image_id": str,
    "label": str,
    "predicted": str,
    "probability": float,
}
CONFUSION: Schema = {"task": int, "label": str, "predicted": str, "probability": float}
SOURCES: Schema = {"task": int, "target": str, "source": str, "rank": int}

# data/augmented/, data/thumbnails.parquet
MEMBERS: Schema = {
    "task": int,
    "label": str,
    "key": str,
    "file_name": str,
    "r": float,
    "source_id": str,
    "source_label": str,
    "target_weight": float,
}
METADATA: Schema = {
    "file_name": str,
    "label": str,
    "target_weight": float,
    "key": str,
    "image_id": str,
    "method": str,
    "source_id": str,
    "source_label": str,
    "prompt": str,
    "negative_prompt": str,
    "r": float,
    "seed": int,
    "replicate": int,
    "support_id": str,
    "steps": int,
    "guidance_scale": float,
    "scheduler": str,
    "generator": str,
    "fingerprint": str,
}
TRAJECTORIES: Schema = {
    "task": int,
    "target_label": str,
    "source_label": str,
    "source_id": str,
    "replicate": int,
    "level": int,
    "r": float,
    "key": str,
    "steps": int,
    "position": float,
    "shift_ratio": float,
    "chosen": bool,
    "predicted_target": bool,
    "embedding": list,
}
UNCLEAR = 1.1
"""Threshold for `shift_ratio` (largest shift / second largest) below which a choice is unclear."""

THUMBNAILS: Schema = {"key": str, "webp": bytes}

# models/augmented/
MIXTURES: Schema = {"task": int, "file_name": str, "label": str, "level": str, "share": float}

# data/evaluation/, metrics/, plots/
VERDICTS: Schema = {
    "key": str,
    "label": str,
    "verdict": str,
    "probability": float,
    "consistent": bool,
}
SCORES: Schema = {
    "task": int,
    "task_id": str,
    "model": str,
    "accuracy": float,
    "boundary": float,
    "many": float,
    "medium": float,
    "few": float,
    "queries": int,
}
CLASS_SCORES: Schema = {"label": str, "model": str, "accuracy": float, "tasks": int}
PREDICTED: Schema = {"label": str, "predicted": str}
LEVELS: Schema = {
    "level": str,
    "images": int,
    "p_source": float,
    "p_target": float,
    "overlap": float,
    "position": float,
    "predicted_target": float,
}
CHOICES: Schema = {
    "r": str,
    "images": int,
    "shift_ratio": float,
    "unclear": float,
    "predicted_target": float,
    "label_consistency": float,
}

# `genie compare`
COMPARISON: Schema = {
    "over": str,
    "row": str,
    "parameters": str,
    "seed": str,
    "n": int,
    "accuracy": float,
    "low": float,
    "high": float,
    "gain": float,
    "gain_low": float,
    "gain_high": float,
    "pairs": int,
    "to_reference": float,
    "to_reference_low": float,
    "to_reference_high": float,
    "p": float,
    "p_holm": float,
    "images": float,
    "guided_steps": float,
    "seconds": float,
}

# prompts/, written by hand
NAMES: Schema = {"class": str, "name": str}
CAPTIONS: Schema = {"image_id": str, "label": str, "caption": str}
CONTEXTS: Schema = {"class": str, "prompt": str, "negative": str}


_OLD_NAMES = {"predicted_target": "called_target"}
"""Current column names, mapped to their names in version 0.1, which can still be read."""


def empty(schema: Schema) -> pd.DataFrame:
    """Return a table with the columns of the schema and no rows."""
    dtypes = {c: t if t in (int, float, bool) else object for c, t in schema.items()}
    return pd.DataFrame(columns=list(schema)).astype(dtypes)


def write_table(table: pd.DataFrame, path: Path, schema: Schema) -> None:
    """Write the columns of the schema, in its order, as Parquet or CSV depending on the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = table.loc[:, list(schema)]
    if path.suffix == ".parquet":
        columns.reset_index(drop=True).to_parquet(path, index=False)
    else:
        quoting = csv.QUOTE_NONNUMERIC if _has_returns(columns) else csv.QUOTE_MINIMAL
        columns.to_csv(path, index=False, lineterminator="\n", quoting=quoting)


def _has_returns(table: pd.DataFrame) -> bool:
    """Return whether any text has a carriage return, which Python before 3.13 does not quote."""
    texts = table.select_dtypes(exclude=["number", "bool"])
    return any(texts[name].astype(str).str.contains("\r", regex=False).any() for name in texts)


def read_table(path: Path, schema: Schema) -> pd.DataFrame:
    """Read the columns of the schema, in its order, from a CSV or Parquet file.

    In a CSV file, an empty cell is NaN in a float column and "" in a text column. In Parquet,
    missing text is None. Raise MissingFileError if the file does not exist, and InvalidValueError
    if it is malformed or lacks a column.
    """
    if not path.is_file():
        raise MissingFileError(
            "does not exist", argument=str(path), remedy="run `dvc repro` to make it"
        )
    table = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path, schema)
    old = {o: n for n, o in _OLD_NAMES.items() if n in schema and n not in table.columns}
    table = table.rename(columns=old)
    if missing := [c for c in schema if c not in table.columns]:
        present = ", ".join(map(str, table.columns))
        raise InvalidValueError(
            f"must have the column {missing[0]!r}, found only: {present}", argument=str(path)
        )
    return table.loc[:, list(schema)]


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder, given its name in a table.

    Raise InvalidValueError if the name points outside the folder.
    """
    path = Path(name)
    if "\0" in name or path.is_absolute() or ".." in path.parts or not path.parts:
        raise InvalidValueError(
            f"a table must name files inside {folder}",
            value=name,
            remedy="correct the table, or run `dvc repro` to make it",
        )
    return folder / path


def write_images(table: pd.DataFrame, folder: Path) -> None:
    """Write an images table to `folder/images.parquet`."""
    write_table(table, folder / "images.parquet", IMAGES)


def read_images(folder: Path) -> pd.DataFrame:
    """Read the images table of a folder; see `read_table` for errors."""
    return read_table(folder / "images.parquet", IMAGES)


def read_support(path: Path) -> pd.DataFrame:
    """Read the support rows of a tasks table (TASKS)."""
    tasks = read_table(path, TASKS)
    return tasks[tasks["role"] == "support"]


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pq.read_table(path).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise InvalidValueError(
            f"must be a Parquet file ({one_line(error)})",
            argument=str(path),
            remedy="run `dvc repro` to make it",
        ) from error


def _read_csv(path: Path, schema: Schema) -> pd.DataFrame:
    kinds = dict(schema) | {o: schema[n] for n, o in _OLD_NAMES.items() if n in schema}
    floats = {c: [""] for c, kind in kinds.items() if kind is float}
    try:
        return pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=floats)
    except ValueError as error:  # parser errors, wrong encodings and wrong types
        raise InvalidValueError(
            f"must be a CSV file in UTF-8 with the columns {', '.join(schema)} ({one_line(error)})",
            argument=str(path),
            remedy="quote fields that contain commas",
        ) from None
