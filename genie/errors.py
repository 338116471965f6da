"""The exception that users see, and messages of other exceptions on one line."""


class GenieError(Exception):
    """An error that the user can fix.

    The message is one line that names the file or parameter, the rule, the value and the remedy.
    Stages and commands print it as `Error: ...` and exit with code 1.
    """


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line, or its type name if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__
