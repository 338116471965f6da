"""Translation of the library's messages, to name keys of params.yaml instead of arguments."""

from collections.abc import Iterator

from genie.core.errors import GenieError, renamed
from genie.settings import Argument, Params, Section


def keys_by_argument() -> dict[str, str]:
    """Return the key of params.yaml that sets an argument of the library, by the argument's name.

    The argument is the last part of the key, unless the field names another argument (`Argument`).
    """
    return dict(_arguments(Params, ""))


def _arguments(section: type[Section], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _arguments(kind, f"{name}.")
        else:
            named = next((m.name for m in field.metadata if isinstance(m, Argument)), name)
            yield named, prefix + name


def in_keys(error: GenieError) -> str:
    """Return an error's message with keys of params.yaml instead of the library's arguments."""
    return error.text(keys_by_argument())


def line_in_keys(line: str) -> str:
    """Return a line of the log with keys instead of arguments in backticks."""
    return renamed(line, keys_by_argument())
