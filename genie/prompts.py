"""Class name -> readable name -> prompt."""

from genie.errors import GenieError

TEMPLATE = "a photo of a {class}"


def readable_name(class_name: str) -> str:
    """The class name as it is said: `golden_retriever` becomes `golden retriever`."""
    return " ".join(class_name.replace("_", " ").split())


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
