"""The one exception that a person sees."""


class GenieError(Exception):
    """A mistake its user can mend.

    The message is one line that names the file or parameter, the rule, the value and the remedy.
    Stages and commands print it as `Error: ...` and exit with code 1.
    """
