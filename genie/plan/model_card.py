"""The model card of a generator, which is the file `genie.json` next to its `model_index.json`."""

import json
from pathlib import Path
from typing import Any

from genie.core.errors import InvalidValueError
from genie.data.licence import licence_text

MODEL_CARD = "genie.json"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise InvalidValueError if the file contains anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidValueError(
            f"must be JSON, but {error}", argument=str(path), remedy="fix or download it again"
        ) from error
    if not isinstance(value, dict):
        raise InvalidValueError(
            "must be a JSON object",
            argument=str(path),
            value=value,
            remedy="fix or download it again",
        )
    return value


def read_model_card(folder: Path) -> dict[str, Any]:
    """Read `genie.json` in a model's folder; return {} if the file does not exist."""
    return read_json(folder / MODEL_CARD) if (folder / MODEL_CARD).is_file() else {}


def model_licence(folder: Path) -> str:
    """Return `license` from a model's `genie.json`, or else the text of its licence files."""
    return str(read_model_card(folder).get("license") or licence_text(folder))


def known_classes(folder: Path) -> list[str] | None:
    """Return the class names that a generator was trained on, or None if its card lists none."""
    names = read_model_card(folder).get("classes")
    return None if names is None else [str(name) for name in names]
