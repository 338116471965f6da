"""Class name -> readable name -> prompt."""

from collections.abc import Mapping
from pathlib import Path

from genie.errors import GenieError
from genie.records import read_table

TEMPLATE = "a photo of a {class}"


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


def prompt_in_turn(
    class_name: str,
    source_id: str | None,
    turn: int,
    *,
    templates: tuple[str, ...] = (TEMPLATE,),
    superclass: str | None = None,
    names: Mapping[str, str] | None = None,
    captions: Mapping[str, str] | None = None,
) -> str:
    """The prompt of a class's image number `turn`: the templates take turns.

    With `captions` (by source image) the caption is the prompt, as in Cap2Aug.
    """
    if captions is not None and source_id is not None:
        return captions[source_id]
    name = (names or {}).get(class_name, class_name)
    return prompt_for(name, template=templates[turn % len(templates)], superclass=superclass)


def prompt_for(class_name: str, *, template: str = TEMPLATE, superclass: str | None = None) -> str:
    """Prompt for one class: `a photo of a {class}[, a type of {superclass}]` (section 3.1).

    `{class}` is replaced literally, so a name may hold braces, quotes or umlauts. GenieError if
    the template has no `{class}`.
    """
    if "{class}" not in template:
        raise GenieError(
            f"the prompt template must contain {{class}}, got {template!r}; use {TEMPLATE!r}"
        )
    prompt = template.replace("{class}", readable_name(class_name))
    return f"{prompt}, a type of {readable_name(superclass)}" if superclass else prompt
