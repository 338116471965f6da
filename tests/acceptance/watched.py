"""A record of what the stages of a scratch repository render, also of those that are killed."""

from collections.abc import Iterator
from pathlib import Path

# Python imports sitecustomize by itself. It raises an audit event for every lock that is
# tried and every file that is moved or removed.
_HOOK = """
import os, sys

log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def watch(event, arguments):
    if event == "fcntl.lockf":
        _, kind, _, place, _ = arguments
        line = f"{{os.getpid()}} {{'release' if kind == 8 else 'lock'}} {{place}}"
    elif event == "os.remove" and str(arguments[0]).endswith(".tmp"):
        line = f"{{os.getpid()}} sweep -"
    elif event == "os.rename" and ".genie/store" in str(arguments[1]):
        line = f"{{os.getpid()}} save {{os.path.basename(arguments[1])}}"
    else:
        return
    os.write(log, (line + chr(10)).encode())

sys.addaudithook(watch)
"""


def watching(folder: Path) -> dict[str, str]:
    """The environment of commands whose rendering is recorded in a folder."""
    folder.mkdir()
    (folder / "log").touch()
    (folder / "sitecustomize.py").write_text(_HOOK.format(log=str(folder / "log")))
    return {"PYTHONPATH": str(folder)}


def rendered(folder: Path) -> list[str]:
    """The images that were begun by runs that had the store alone, once for each time.

    They are named by the place of their lock. A lock that only guards the removal of a dead run's
    temporary file is none of them.
    """
    by_process: dict[str, list[tuple[str, str]]] = {}
    for line in (folder / "log").read_text().splitlines():
        process, what, place = line.split()
        by_process.setdefault(process, []).append((what, place))
    return [place for events in by_process.values() for place in _begun(events)]


def saved(folder: Path) -> list[str]:
    """The files that were written to the store, once for each time."""
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return [name for _, what, name in lines if what == "save"]


def _begun(events: list[tuple[str, str]]) -> Iterator[str]:
    for i, (what, place) in enumerate(events):
        following = events[i + 1][0] if i + 1 < len(events) else ""
        if what == "lock" and following != "sweep":
            yield place
