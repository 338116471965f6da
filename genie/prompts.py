"""Class name -> readable name -> prompt and negative prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from genie.errors import GenieError
from genie.records import CONTEXT_COLUMNS, read_table

TEMPLATE = "a photo of a {class}"


class Wording(NamedTuple):
    """What the generator is told to draw, and what to keep away from."""

    prompt: str
    negative: str


Contexts = Mapping[str, Sequence[Wording]]
"""By class ("" for any other): templates with `{class}` and negative prompts that take turns."""


def readable_name(class_name: str) -> str:
    """The class name as it is said: `golden_retriever` becomes `golden retriever`."""
    return " ".join(class_name.replace("_", " ").split())


def read_names(path: Path) -> dict[str, str]:
    """Readable names by class, from a CSV with the columns class and name (`n02084071,dog`).

    Classes that are not in it keep their own name. GenieError for a missing file or column, a
    class that is named twice, or an empty name.
    """
    table = read_table(path, columns=("class", "name"))
    twice = table["class"][table["class"].duplicated()]
    if len(twice):
        raise GenieError(f"{path} must name each class once, {twice.iloc[0]!r} is there twice")
    names = dict(zip(table["class"], table["name"], strict=True))
    if empty := [c for c, name in names.items() if not name.strip()]:
        raise GenieError(f"{path} must give {empty[0]!r} a name, got an empty one")
    return names


def read_contexts(path: Path) -> dict[str, list[Wording]]:
    """Contextual prompts by class, from a CSV with the columns class, prompt and negative.

    A row without a class serves every class that has no rows of its own. A prompt holds `{class}`.
    GenieError for a missing file or column, or a prompt without `{class}`.
    """
    table = read_table(path, columns=CONTEXT_COLUMNS)
    contexts: dict[str, list[Wording]] = {}
    for row in table.itertuples(index=False):
        _require_class(row.prompt, where=f"{path}: the prompt")
        contexts.setdefault(row[0], []).append(Wording(row.prompt, row.negative))
    return contexts


def wording_in_turn(
    class_name: str,
    source_id: str | None,
    turn: int,
    *,
    templates: tuple[str, ...] = (TEMPLATE,),
    superclass: str | None = None,
    negative: str = "",
    names: Mapping[str, str] | None = None,
    captions: Mapping[str, str] | None = None,
    contexts: Contexts | None = None,
) -> Wording:
    """Prompt and negative prompt of a class's image number `turn`: the templates take turns.

    With `captions` (by source image) the caption is the prompt, as in Cap2Aug. With `contexts`
    the class's rows take turns instead of the templates, as in DiffCoRe-Mix; `negative` is added
    to their own. GenieError if neither the class nor "" has a context.
    """
    if captions is not None and source_id is not None:
        return Wording(captions[source_id], negative)
    name = (names or {}).get(class_name, class_name)
    if contexts is None:
        template = templates[turn % len(templates)]
        return Wording(prompt_for(name, template=template, superclass=superclass), negative)
    rows = contexts.get(class_name) or contexts.get("")
    if not rows:
        raise GenieError(
            f"prompt.contexts must have a row for {class_name!r}, or one without a class for all; "
            'add one, for example `,"a photo of a {class} outdoors",blurry`'
        )
    template, own = rows[turn % len(rows)]
    away = ", ".join(text for text in (own, negative) if text)
    return Wording(prompt_for(name, template=template, superclass=superclass), away)


def prompt_for(class_name: str, *, template: str = TEMPLATE, superclass: str | None = None) -> str:
    """Prompt for one class: `a photo of a {class}[, a type of {superclass}]` (section 3.1).

    `{class}` is replaced literally, so a name may hold braces, quotes or umlauts. GenieError if
    the template has no `{class}`.
    """
    _require_class(template, where="the prompt template")
    prompt = template.replace("{class}", readable_name(class_name))
    return f"{prompt}, a type of {readable_name(superclass)}" if superclass else prompt


def _require_class(template: str, *, where: str) -> None:
    if "{class}" not in template:
        raise GenieError(f"{where} must contain {{class}}, got {template!r}; use {TEMPLATE!r}")
