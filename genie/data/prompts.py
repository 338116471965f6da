"""Class names in folders, in words, and in prompts and negative prompts."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from genie.core.errors import InvalidValueError
from genie.core.tables import CAPTIONS, CONTEXTS, NAMES, read_table

TEMPLATE = "a photo of a {class}"

_PORTS = [f"{port}{number}" for port in ("COM", "LPT") for number in range(10)]
_RESERVED = {"CON", "PRN", "AUX", "NUL", *_PORTS}
"""File names that Windows reserves, with or without a suffix."""


def slug(name: str) -> str:
    """Return the folder name of a class: the name itself, wherever every file system allows it.

    Characters that a file system forbids are percent-encoded (UTF-8), as are `%`, a leading or
    trailing dot or blank, and the first letter of a name that Windows reserves. `class_name` is the
    inverse. A name beyond 255 bytes is truncated and ends in `%-` and a hash. Names that differ
    only in case collide on a case-insensitive file system.
    """
    last = len(name) - 1
    text = "".join(
        _escaped(letter) if _is_forbidden(letter, inside=0 < i < last) else letter
        for i, letter in enumerate(name)
    )
    if text.partition(".")[0].upper() in _RESERVED:
        text = _escaped(text[0]) + text[1:]
    if len(text.encode()) <= 255:
        return text or "%-"
    return _hashed(name)


def is_slug(folder: str, name: str) -> bool:
    """Return whether a folder has the name of a class, now or in sets of version 0.2 and before."""
    return folder in (slug(name), _hashed(name)) or class_name(folder) == name


def _is_forbidden(letter: str, *, inside: bool) -> bool:
    if letter in '%/\\:*?"<>|' or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
        return True
    return not inside and (letter == "." or letter.isspace())


def _escaped(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode(errors="surrogatepass"))


def _hashed(name: str) -> str:
    """Return the folder name of a long class name, in ASCII."""
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
    return f"{quote(name, safe='', errors='surrogatepass')[:160]}%-{digest}"


def class_name(folder_name: str) -> str:
    """Return the class name that a folder name encodes, in Unicode form NFC.

    Percent-escapes are decoded as UTF-8. If any escape is not valid UTF-8, no escape is decoded.
    """
    try:
        name = unquote(folder_name, errors="strict")
    except UnicodeDecodeError:
        name = folder_name
    return unicodedata.normalize("NFC", name)


class Wording(NamedTuple):
    """A prompt and its negative prompt."""

    prompt: str
    negative: str


Contexts = Mapping[str, Sequence[Wording]]
"""Prompt templates with `{class}` and their negative prompts by class, used in rotation.

The key "" is for all classes without a key of their own.
"""


def readable_name(class_name: str) -> str:
    """Return the class name in words: `golden_retriever` becomes `golden retriever`."""
    return " ".join(class_name.replace("_", " ").split())


def read_names(path: Path) -> dict[str, str]:
    """Read readable names by class from a CSV with the columns class and name (`n02084071,dog`).

    Classes that are not listed keep their names. Raise MissingFileError if the file does not exist,
    and InvalidValueError for a missing column, a class that is listed twice, or an empty name.
    """
    table = read_table(path, NAMES)
    twice = table["class"][table["class"].duplicated()]
    if len(twice):
        raise InvalidValueError(
            f"must list each class once, got {twice.iloc[0]!r} twice", argument=str(path)
        )
    names = dict(zip(table["class"], table["name"], strict=True))
    if empty := [c for c, name in names.items() if not name.strip()]:
        raise InvalidValueError(
            f"must give {empty[0]!r} a name, got an empty one", argument=str(path)
        )
    return names


def read_contexts(path: Path) -> dict[str, list[Wording]]:
    """Read contextual prompts by class from a CSV with the columns class, prompt and negative.

    Rows without a class apply to all classes that are not listed. Raise MissingFileError if the
    file does not exist, and InvalidValueError for a missing column or a prompt without `{class}`.
    """
    table = read_table(path, CONTEXTS)
    contexts: dict[str, list[Wording]] = {}
    for row in table.itertuples(index=False):
        _require_class(row.prompt, where=f"{path}: the prompt")
        contexts.setdefault(row[0], []).append(Wording(row.prompt, row.negative))
    return contexts


@dataclass(frozen=True)
class Prompts:
    """The components of prompts.

    - `templates`: patterns with `{class}`, used in rotation
    - `superclass`: added as ", a type of ..." (section 3.1); None adds nothing
    - `negative`: the negative prompt of every image
    - `names`: readable names of classes whose folder names are codes
    - `captions`: captions by source image id, used as complete prompts (Cap2Aug)
    - `contexts`: prompts and negative prompts by class, in place of the templates (DiffCoRe-Mix)

    Raise InvalidValueError for a template without `{class}`.
    """

    templates: tuple[str, ...] = (TEMPLATE,)
    superclass: str | None = None
    negative: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    captions: Mapping[str, str] | None = None
    contexts: Contexts | None = None

    def __post_init__(self) -> None:
        for template in self.templates:
            _require_class(template, where="template")

    def wording(self, class_name: str, source_id: str | None = None, turn: int = 0) -> Wording:
        """Return the prompt and negative prompt for image number `turn` of a class.

        `negative` is appended to the negative prompt of a context. Raise InvalidValueError if
        `contexts` has rows for neither the class nor "".
        """
        if self.captions is not None and source_id is not None:
            return Wording(self.captions[source_id], self.negative)
        name = self.names.get(class_name, class_name)
        if self.contexts is None:
            template = self.templates[turn % len(self.templates)]
            return Wording(self._prompt(name, template), self.negative)
        rows = self.contexts.get(class_name) or self.contexts.get("")
        if not rows:
            raise InvalidValueError(
                f"must have a row for {class_name!r}, or one without a class for all",
                argument="contexts",
                remedy='add one, for example `,"a photo of a {class} outdoors",blurry`',
            )
        template, row_negative = rows[turn % len(rows)]
        joined = ", ".join(text for text in (row_negative, self.negative) if text)
        return Wording(self._prompt(name, template), joined)

    def _prompt(self, name: str, template: str) -> str:
        return prompt_for(name, template=template, superclass=self.superclass)


def prompt_for(class_name: str, *, template: str = TEMPLATE, superclass: str | None = None) -> str:
    """Return the prompt of a class, `a photo of a {class}[, a type of {superclass}]` (section 3.1).

    `{class}` is replaced literally, so a name may contain braces, quotes or umlauts. Raise
    InvalidValueError if the template has no `{class}`.
    """
    _require_class(template, where="template")
    prompt = template.replace("{class}", readable_name(class_name))
    return f"{prompt}, a type of {readable_name(superclass)}" if superclass else prompt


def _require_class(template: str, *, where: str) -> None:
    if "{class}" not in template:
        raise InvalidValueError(
            "must contain {class}", argument=where, value=template, remedy=f"use {TEMPLATE!r}"
        )


def read_captions(path: Path) -> dict[str, str]:
    """Read captions by image id from a CSV.

    Raise MissingFileError if the file does not exist, and InvalidValueError for a missing column or
    an image that is listed twice.
    """
    table = read_table(path, CAPTIONS)
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise InvalidValueError(
            f"must list each image once, got {twice.iloc[0]} twice", argument=str(path)
        )
    return dict(zip(table["image_id"], table["caption"], strict=True))


def require_captions(captions: Mapping[str, str], images: Sequence[str]) -> None:
    """Raise InvalidValueError unless every image has a caption."""
    missing = [i for i in images if not captions.get(i, "").strip()]
    if missing:
        raise InvalidValueError(
            f"must have a caption for each image, but {len(missing)} of {len(images)} support "
            f"images have none, the first is {missing[0]}",
            argument="captions",
            remedy="run `genie caption MODEL data/prepared/support PROMPTS/captions.csv` with the "
            "folder of `Prompts` or prompt.folder as PROMPTS, or write them by hand",
        )
