"""The log on stderr."""

import logging
import sys

from genie.cli.messages import line_in_keys


def show_log() -> None:
    """Show warnings of all libraries on stderr, and info messages of this one.

    Messages name keys of params.yaml instead of the library's arguments. The progress bars that
    libraries show while they load a model are hidden.
    """
    for name in ("transformers", "diffusers"):
        if library := sys.modules.get(name):  # importing one takes seconds
            library.utils.logging.disable_progress_bar()
    handler = logging.StreamHandler()
    handler.setFormatter(_LogLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("genie").setLevel(logging.INFO)


class _LogLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = line_in_keys(super().format(record))
        return f"Warning: {message}" if record.levelno >= logging.WARNING else message
