"""The origin of the installed library, as a requirement that pip can install."""

import json
import re
from importlib.metadata import distribution
from pathlib import Path

from genie.cli.repository import git

PACKAGE = "genie-pipeline"
_LIBRARY = Path(__file__).parents[1]


def requirement(library: Path = _LIBRARY) -> str:
    """Return a requirement that installs the library again from the same origin.

    If the library came from a package index, the requirement is a version. If it came from a git
    repository, or from a checkout whose commit is on the remote, the requirement is a commit.
    Otherwise, it is the path of the wheel or of the checkout on this machine. `library` is the
    folder of the package `genie`.
    """
    checkout = library.parent
    if (checkout / "pyproject.toml").is_file():
        return f"{PACKAGE} @ {_on_remote(checkout) or checkout.as_uri()}"
    found = distribution(PACKAGE)
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    url = str(origin.get("url", ""))
    if commit := origin.get("vcs_info", {}).get("commit_id"):
        return f"{PACKAGE} @ git+{url}@{commit}"
    return f"{PACKAGE} @ {url}" if url else f"{PACKAGE}=={found.version}"


def is_on_this_machine(text: str) -> bool:
    """Return whether a requirement is the address of a local file or folder."""
    return " @ file:" in text


def _on_remote(checkout: Path) -> str | None:
    """Return the address of a checkout's commit on its remote, or None if the remote lacks it."""
    commit, branches, address = (
        git(checkout, *command).strip()
        for command in (
            ("rev-parse", "HEAD"),
            ("branch", "--remotes", "--contains", "HEAD"),
            ("remote", "get-url", "origin"),
        )
    )
    if not commit or not branches or git(checkout, "status", "--porcelain"):
        return None
    if match := re.fullmatch(r"([\w.-]+@[\w.-]+):(?!//)(.+)", address):  # scp-like
        address = f"ssh://{match[1]}/{match[2]}"
    return f"git+{address}@{commit}" if "://" in address else None
