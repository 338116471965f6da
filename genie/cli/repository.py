"""git commands: changes of params.yaml, and access to the repository."""

import os
import shlex
import subprocess
from pathlib import Path

from genie.core.errors import FailedError, one_line

_STEP = 2
"""The coarsest resolution of modification times in file systems, in seconds."""


def show_to_git(file: Path) -> None:
    """Make git notice a change of a file that it considers unchanged.

    git compares the size of a file, and its modification time in whole seconds. `dvc exp run -S`
    restores and rewrites params.yaml within one second, so git does not notice a new value of the
    same length.
    """
    recorded = _git(file, "ls-files", "--stage").split()
    if len(recorded) < 2 or _changed(file) or _git(file, "hash-object").split() == recorded[1:2]:
        return
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + _STEP * 10**9))


def kept_values(file: Path) -> str:
    """Return a clause for an error message if a failed experiment leaves its values in a file.

    The clause is empty outside of experiments, and in experiments that run in their own folder.
    """
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    if (
        "DVC_EXP_NAME" not in os.environ
        or root != Path.cwd()
        or not _git(file, "diff", "--name-only", "HEAD")
    ):
        return ""
    return (
        f"; {file} keeps the values of this experiment for the next one "
        f"(`git diff {file}` shows, `git restore {file}` removes them)"
    )


def committed(file: Path) -> str:
    """Return the text of a file in the last commit, or "" if there is none."""
    return git(file.parent, "show", f"HEAD:./{file.name}")


def require_own(root: Path) -> None:
    """Raise FailedError if DVC cannot open the git repository of a folder.

    DVC refuses repositories of other users, such as a folder that is mounted into a container.
    """
    from pygit2 import GitError  # opens repositories for DVC; slow to import
    from scmrepo.exceptions import SCMError
    from scmrepo.git import Git

    try:
        scm = Git(os.fspath(root))
    except SCMError:
        return  # no repository
    try:
        assert scm.pygit2
    except GitError as error:
        if "not owned" not in str(error):
            raise FailedError(f"git cannot open {scm.root_dir}: {one_line(error)}") from None
        raise FailedError(
            f"the git repository {scm.root_dir} belongs to another user, so git and DVC refuse it",
            remedy="if you trust it, run `git config --global --add safe.directory "
            f"{shlex.quote(scm.root_dir)}`",
        ) from None
    finally:
        scm.close()


def _changed(file: Path) -> bool:
    return bool(_git(file, "diff-files"))


def git(folder: Path, *command: str) -> str:
    """Return the output of a git command in a folder, or "" if git is missing or fails."""
    try:
        done = subprocess.run(
            ["git", *command], cwd=folder, capture_output=True, text=True, errors="replace"
        )
    except OSError:
        return ""
    return "" if done.returncode else done.stdout


def _git(file: Path, *command: str) -> str:
    return git(file.parent, "--no-optional-locks", *command, "--", file.name)
