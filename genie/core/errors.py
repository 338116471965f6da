"""Errors that users see, and helpers for the messages of other exceptions.

Every message names the argument, the rule, the value and the remedy on one line. The library names
its own arguments; the stages replace them with keys of params.yaml (`GenieError.text`).
"""

import difflib
import errno
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100

_UNSET: Any = object()


def shown(value: object) -> str:
    """Return the repr of a value for messages, shortened if it is long or nested."""
    return _SHORT.repr(value)


class GenieError(Exception):
    """An error that the user can fix.

    `rule` is a clause whose subject is `argument`, such as "must be at least 1", or a whole
    sentence if there is no argument. `value` is the value that was given, and `remedy` is the
    action that helps. The message is one line: `{argument} {rule}, got {value}; {remedy}`. In the
    rule and the remedy, other arguments are written in backticks.
    """

    def __init__(
        self, rule: str, *, argument: str | None = None, value: Any = _UNSET, remedy: str = ""
    ) -> None:
        self.argument = argument
        self.rule = rule
        self.value = None if value is _UNSET else value
        self.remedy = remedy
        self._got = "" if value is _UNSET else f", got {' '.join(shown(value).splitlines())}"
        super().__init__(self.text())

    def text(self, names: Mapping[str, str] | None = None) -> str:
        """Return the message with arguments renamed, for example to keys of params.yaml."""
        names = names or {}
        argument = self.argument and renamed(f"`{self.argument}`", names).strip("`")
        subject = f"{argument} {self.rule}" if argument else self.rule
        remedy = f"; {renamed(' '.join(self.remedy.split()), names)}" if self.remedy else ""
        return f"{renamed(' '.join(subject.split()), names)}{self._got}{remedy}"

    def __str__(self) -> str:
        return self.text()


class InvalidValueError(GenieError, ValueError):
    """A value, or the content of a file, breaks a rule."""


class MissingFileError(GenieError, FileNotFoundError):
    """A file or folder is not where it should be."""


class FailedError(GenieError, RuntimeError):
    """A model, another library, a device or a service failed."""


def require_choice(argument: str, value: object, choices: Iterable[str]) -> None:
    """Raise InvalidValueError, suggesting the nearest choice, unless the value is in `choices`."""
    names = list(choices)
    if value in names:
        return
    (nearest,) = difflib.get_close_matches(str(value), names, n=1, cutoff=0)
    raise InvalidValueError(
        f"must be one of {', '.join(names)}",
        argument=argument,
        value=value,
        remedy=f"did you mean {nearest}?",
    )


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Replace arguments in backticks with their names in `names`, and keep other arguments."""
    return re.sub(r"`(\w+)`", lambda found: f"`{names.get(found[1], found[1])}`", text)


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line, or its type name if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


def disk_is_full(error: BaseException) -> bool:
    """Return whether an exception from Python or another library means that the disk is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)
    return any(
        words in text for words in ("No space left on device", "os error 28", "or disk is full")
    )


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that device or host memory is exhausted."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # from torch
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
