"""The files in folders that DVC tracks, in the workspace and in other revisions."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genie.cli.repository import require_own
from genie.core.errors import FailedError, GenieError, InvalidValueError, MissingFileError, one_line
from genie.render.store import write_durably

SET = "data/augmented"
"""The folder of the set that the stage `generate` writes."""


@dataclass(frozen=True)
class TrackedFolder:
    """The files of a tracked folder in one revision.

    `hashes` maps file names to MD5 hashes (hex). `cache` is DVC's cache on this machine.
    """

    revision: str
    folder: str
    hashes: Mapping[str, str]
    cache: Path

    def content(self, name: str) -> bytes | None:
        """Return a file's recorded content, or None if the cached copy is missing or damaged."""
        return _content(self.cache, self.hashes[name])

    def heal(self, name: str, content: bytes) -> None:
        """Write the content of a file to the cache if the cached copy is missing or damaged."""
        if self.content(name) is None and md5(content) == self.hashes[name]:
            replace_file(_place(self.cache, self.hashes[name]), content, mode=0o444)

    def drop_damaged(self, name: str) -> None:
        """Remove a file from the cache if the cached copy is damaged, so that DVC recreates it."""
        if self.content(name) is None:
            _place(self.cache, self.hashes[name]).unlink(missing_ok=True)


def md5(content: bytes) -> str:
    """Return the MD5 hash (hex) of a file's content, as DVC computes it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def replace_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file atomically."""
    write_durably(path, content, prefix=f".{path.name}-", mode=mode)


def tracked_folder(root: Path, folder: Path) -> TrackedFolder | None:
    """Return the tracked files of a workspace folder, or None if DVC does not track the folder.

    Raise GenieError if the list of the folder's files is not in DVC's cache.
    """
    repo = _open(root)
    if repo is None:
        return None
    for out in repo.index.outs:
        if Path(out.fs_path) == folder.absolute() and out.hash_info:
            return _tracked(out, "the workspace")
    return None


def tracked_sets(root: Path) -> Iterator[TrackedFolder]:
    """Yield the sets in the workspace, branches, tags and experiments.

    A set is a folder with members.csv and trajectories.parquet. Raise GenieError if `root` is not a
    DVC repository, or if the list of a set's files is not in DVC's cache. Skip a set of the
    checked-out branch that was made on another machine, if the workspace contains its own.
    """
    from dvc.exceptions import DvcException  # dvc is slow to import

    repo = _open(root)
    if repo is None:
        raise InvalidValueError(
            "must be a DVC repository, because DVC records which sets exist",
            argument=str(root.absolute()),
            remedy="name its folder with --root",
        )
    here = set()
    try:
        branch = "" if repo.scm.no_commits else repo.scm.active_branch()
        for revision in repo.brancher(all_branches=True, all_tags=True, all_experiments=True):
            for out in repo.index.outs:
                try:
                    found = _tracked_set(out, revision)
                except MissingFileError:
                    if revision == branch and _name(out) in here:
                        continue
                    raise
                if found is not None:
                    here |= {found.folder} if revision == "workspace" else set()
                    yield found
    except DvcException as error:
        raise FailedError(
            f"DVC cannot read all revisions: {one_line(error)}", remedy="repair the repository"
        ) from error


def missing_tables(folder: str, revision: str) -> MissingFileError:
    """Return the error for a set whose tables are not on this machine."""
    return MissingFileError(
        f"the tables of {folder} in {revision} are not in DVC's cache, so it is unknown which "
        "images they refer to",
        remedy="fetch them with `dvc fetch --all-branches --all-tags`, or delete that branch, tag "
        "or experiment",
    )


def _open(root: Path) -> Any:
    """Return the DVC repository at `root`, or None."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    require_own(root)
    try:
        return Repo(os.fspath(root))
    except NotDvcRepoError:
        return None


def _tracked_set(out: Any, revision: str) -> TrackedFolder | None:
    if not out.hash_info or not out.hash_info.isdir:
        return None
    try:
        found = _tracked(out, revision)
    except GenieError:
        if _name(out) == SET or out.stage.is_data_source:  # `dvc add` tracks sets too
            raise
        return None  # another stage's output
    return found if {"members.csv", "trajectories.parquet"} <= set(found.hashes) else None


def listed(cache: Path, name: str) -> dict[str, str] | None:
    """Return the hash of each file of a folder with a hash, None if the cache lacks the list."""
    content = _content(cache, name) if name.endswith(".dir") else None
    if content is None:
        return None
    return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}


def _tracked(out: Any, revision: str) -> TrackedFolder:
    cache = Path(out.cache.path)
    hashes = listed(cache, out.hash_info.value)
    if hashes is None:
        raise missing_tables(_name(out), revision)
    return TrackedFolder(revision, _name(out), hashes, cache)


def _name(out: Any) -> str:
    """Return the path of a tracked folder relative to its repository."""
    return Path(os.path.relpath(out.fs_path, out.repo.root_dir)).as_posix()


def _content(cache: Path, name: str) -> bytes | None:
    """Return the cached content for a hash, or None if it is missing or damaged."""
    try:
        content = _place(cache, name).read_bytes()
    except FileNotFoundError:
        return None
    return content if md5(content) == name.removesuffix(".dir") else None


def _place(cache: Path, name: str) -> Path:
    return cache / name[:2] / name[2:]
