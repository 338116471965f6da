"""The exception that users see, and what other exceptions say."""

import errno


class GenieError(Exception):
    """An error that the user can fix.

    The message is one line that names the file or parameter, the rule, the value and the remedy.
    Stages and commands print it as `Error: ...` and exit with code 1.
    """


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line, or its type name if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


def disk_is_full(error: BaseException) -> bool:
    """Return whether an error, of Python or of a library in another language, says so."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)
    return any(
        words in text for words in ("No space left on device", "os error 28", "or disk is full")
    )


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of the device or of the host is exhausted."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
