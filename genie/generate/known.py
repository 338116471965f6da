"""What a generator says about itself in `genie.json`, and the classes that it knows."""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from genie.data.licence import licence_text
from genie.data.wording import readable_name
from genie.errors import GenieError
from genie.generate.methods import METHODS

SETTINGS = "genie.json"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise GenieError if the file holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GenieError(f"{path} must be JSON, but {error}; fix or download it again") from error
    if not isinstance(value, dict):
        raise GenieError(f"{path} must be a JSON object, got {value!r}; fix or download it again")
    return value


def read_settings(folder: Path) -> dict[str, Any]:
    """Read `genie.json` of a model's folder; empty if there is none."""
    return read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}


def model_licence(folder: Path) -> str:
    """Return `license` of a model's `genie.json`, else the text of its licence files."""
    return str(read_settings(folder).get("license") or licence_text(folder))


def needs_known_classes(method: str) -> bool:
    """Return whether a method renders classes by name, without learning them from images."""
    chosen = METHODS[method]
    return chosen.renders and not chosen.learns


def known_classes(folder: Path) -> list[str] | None:
    """Return the class names that a generator says it was trained on; None if it does not say."""
    names = read_settings(folder).get("classes")
    return None if names is None else [str(name) for name in names]


def unknown_classes(
    labels: Iterable[str], known: Iterable[str], names: Mapping[str, str]
) -> list[str]:
    """Return the labels, sorted, that a generator does not know under the name that prompts use.

    `names` are readable names by label (names.csv). Names are compared in words and without case.
    """
    words = {_words(name) for name in known}
    return sorted(c for c in set(labels) if _words(names.get(c, c)) not in words)


def require_known(
    labels: Iterable[str], known: Iterable[str], names: Mapping[str, str], *, model: Path
) -> None:
    """Raise GenieError with the ways to go on if a generator does not know one of the labels."""
    unknown = unknown_classes(labels, known, names)
    if not unknown:
        return
    shown = ", ".join(map(repr, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
    others = [name for name in METHODS if not needs_known_classes(name)]
    raise GenieError(
        f"generator.model {model} does not know {len(unknown)} of the classes: {shown} (it knows "
        f"{', '.join(known)}){_other_word(unknown, known)}. Go on in one of three ways: fetch a "
        "model that knows them, such as `genie fetch stable-diffusion-v1-5/stable-diffusion-v1-5 "
        "models/sd15` (5.5 GB, licence CreativeML OpenRAIL-M), and set "
        f"generator.model=models/sd15; set method to one that needs none ({', '.join(others)}; "
        "da-fusion learns the classes from their images); or insist with "
        "generator.unknown_classes=allow"
    )


def _words(name: str) -> str:
    return readable_name(name).casefold()


def _other_word(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Return a hint if an unknown class may be another word for one that is known."""
    words = {_words(name): name for name in known}
    for label in unknown:
        if near := difflib.get_close_matches(_words(label), words, n=1, cutoff=0.75):
            return f"; if {label!r} is {words[near[0]]!r}, say so in names.csv of prompt.folder"
    return ""
