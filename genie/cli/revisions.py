"""The scores, costs and parameters that are recorded in a repository's revisions.

A revision is a branch, a tag, a commit, a DVC experiment, or "workspace" for the files on disk.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.experiments.refs import ExpRefInfo
from dvc.repo.experiments.utils import exp_refs, exp_refs_by_baseline
from dvc.scm import Git, iter_revs, resolve_rev
from scmrepo.exceptions import SCMError

from genie.cli.dvc_cache import listed
from genie.cli.recorded import PARAMS, RESULTS, Listing, mismatch, recorded_parameter
from genie.cli.repository import require_own
from genie.cli.run_notes import STAGES, seconds_by_stage, seconds_of_experiment
from genie.core.errors import InvalidValueError, MissingFileError, one_line
from genie.core.progress import Progress, silent
from genie.core.tables import SCORES
from genie.measure.comparison import PipelineRun

WORKSPACE = "workspace"

LOCK = "dvc.lock"

FILES = (*RESULTS, PARAMS)


@dataclass(frozen=True)
class Selection:
    """The revisions to read; by default the workspace, HEAD and HEAD's experiments."""

    revisions: Sequence[str] = ()
    branches: bool = False
    tags: bool = False
    commits: bool = False
    experiments: bool = False


def read_runs(
    root: Path, selection: Selection, *, progress: Progress = silent
) -> tuple[list[PipelineRun], list[str]]:
    """Read the runs in revisions of the repository at `root`, and return the runs and notes.

    Several names for one commit give one run, and so does a workspace that equals another revision.
    Metrics count as a result only if the parameters are those in dvc.lock. Raise InvalidValueError
    if a revision does not exist, and MissingFileError if a revision that is given by name has no
    result. Other revisions without a result are listed in a note.
    """
    with _repository(root) as repo:
        names = _names(repo, selection)
        runs, without = {}, []
        others: dict[str, list[str]] = {}
        for revision in progress(list(names), "read runs", total=len(names), unit="run"):
            name, named = names[revision][0], set(names[revision]) & set(selection.revisions)
            files = _files(repo, revision)
            if files is None:
                if named:
                    raise MissingFileError(
                        f"{name} has no {FILES[0]}", remedy="run `dvc repro` there and commit it"
                    )
                without.append(name)
            elif reason := _mismatch(repo, revision, files):
                if named:
                    raise _no_result([name], reason)
                others.setdefault(reason, []).append(name)
            else:
                runs[revision] = _run(names[revision], files, _seconds(root, names[revision]))
    notes = [f"left out, because they have no metrics: {', '.join(without)}"] if without else []
    notes += [f"left out, because {_no_result(each, reason)}" for reason, each in others.items()]
    return _merged(list(runs.values())), notes


def other_parameters(root: Path, paths: Iterable[str] = RESULTS) -> str | None:
    """Return the reason why results in the workspace do not match params.yaml, or None.

    The contents of files are also compared, but not the contents of folders. Return None if there
    is no dvc.lock.
    """
    texts = [root / LOCK, root / PARAMS]
    if not all(path.is_file() for path in texts):
        return None
    lock, params = (path.read_text(encoding="utf-8", errors="replace") for path in texts)
    results = {path: (root / path).read_bytes() for path in paths if (root / path).is_file()}
    return mismatch(lock, params, dict.fromkeys(paths) | results, _listing(root))


def _listing(root: Path) -> Listing:
    """Return a listing of folders in DVC's cache, which is empty if DVC cannot open the project."""
    try:
        with Repo(str(root)) as repo:
            return partial(listed, Path(repo.cache.local.path))
    except (DvcException, SCMError):
        return lambda _: None


def trained_with(root: Path, key: str) -> Any:
    """Return a parameter of the run that drew the support images; params.yaml may have changed."""
    if (root / LOCK).is_file():
        with suppress(KeyError):
            lock = (root / LOCK).read_text(encoding="utf-8", errors="replace")
            return recorded_parameter(lock, "data/prepared/support", key)
    return read_parameters(root).get(key)


def require_result(root: Path) -> None:
    """Raise MissingFileError if the metrics in a project do not match its params.yaml."""
    if reason := other_parameters(root):
        raise _no_result([WORKSPACE], reason)


def position(runs: Sequence[PipelineRun], name: str | None) -> int:
    """Return the index of the run called `name`, or 0 if `name` is None.

    Raise InvalidValueError if no run has this name, and MissingFileError if there are no runs.
    """
    if not runs:
        raise MissingFileError("no revision has metrics", remedy="run `dvc repro` to make them")
    if name is None:
        return 0
    for i, run in enumerate(runs):
        if name in run.names:
            return i
    names = ", ".join(run.name for run in runs)
    raise InvalidValueError(
        f"must be one of the compared runs, {names}", argument="--reference", value=name
    )


def read_parameters(root: Path) -> dict[str, Any]:
    """Read params.yaml in a folder as values by dotted key; return {} if the file is missing."""
    path = root / "params.yaml"
    return _flat(_yaml(path.read_text(encoding="utf-8"), path)) if path.is_file() else {}


def _repository(root: Path) -> Repo:
    require_own(root)
    try:
        return Repo(str(root))
    except (DvcException, SCMError) as error:
        raise InvalidValueError(
            f"must be in a git repository with DVC ({one_line(error)})",
            argument="--root",
            value=str(root),
            remedy="run `git init` and `dvc init`, or give another one",
        ) from None


# Names


def _names(repo: Repo, selection: Selection) -> dict[str, list[str]]:
    """Return the names of each revision, by commit or "workspace", in the requested order."""
    if selection == Selection():
        return _default(repo)
    pairs = [
        (name if name == WORKSPACE else _commit(repo, name), name) for name in selection.revisions
    ]
    swept = iter_revs(
        repo.scm,
        all_branches=selection.branches,
        all_tags=selection.tags,
        all_commits=selection.commits,
    )
    pairs += [(commit, _short(commit, name)) for commit, names in swept.items() for name in names]
    if selection.experiments:
        pairs += _experiments(repo, exp_refs(repo.scm))
    return _grouped(pairs)


def _default(repo: Repo) -> dict[str, list[str]]:
    """Return HEAD, its experiments and the workspace."""
    if not isinstance(repo.scm, Git) or repo.scm.no_commits:
        return {WORKSPACE: [WORKSPACE]}
    head = repo.scm.get_rev()
    experiments = _experiments(repo, exp_refs_by_baseline(repo.scm, {head}).get(head, []))
    return _grouped([(head, "HEAD"), *experiments, (WORKSPACE, WORKSPACE)])


def _commit(repo: Repo, name: str) -> str:
    try:
        return str(resolve_rev(repo.scm, name))
    except (DvcException, SCMError, NotImplementedError) as error:
        raise InvalidValueError(
            f"a revision must be a branch, tag, commit, experiment or {WORKSPACE!r} "
            f"({one_line(error)})",
            value=name,
            remedy="`git branch --all`, `git tag` and `dvc exp list --all-commits` list them",
        ) from None


def _experiments(repo: Repo, refs: Iterable[ExpRefInfo]) -> list[tuple[str, str]]:
    """Return the commit and name of each experiment, oldest first."""
    found = [(str(repo.scm.get_ref(str(ref))), str(ref.name)) for ref in refs]
    return sorted(found, key=lambda pair: (repo.scm.resolve_commit(pair[0]).commit_time, pair))


def _short(commit: str, name: str) -> str:
    return name[:7] if name == commit else name


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for commit, name in pairs:
        if name not in grouped.setdefault(commit, []):
            grouped[commit].append(name)
    return grouped


# Files


def _files(repo: Repo, revision: str) -> dict[str, bytes] | None:
    """Return FILES and dvc.lock at a revision, or None if any metrics file does not exist."""
    with repo.switch(revision):
        found = {}
        for name in (*FILES, LOCK):
            path = repo.fs.join(repo.root_dir, *name.split("/"))
            if repo.fs.exists(path):
                with repo.fs.open(path, "rb") as file:
                    found[name] = file.read()
    return {LOCK: b""} | found if found.keys() >= set(FILES) else None


def _mismatch(repo: Repo, revision: str, files: Mapping[str, bytes]) -> str | None:
    """Return the reason why a revision's metrics do not match its parameters, or None."""
    lock, params = (files[name].decode(errors="replace") for name in (LOCK, PARAMS))
    _yaml(params, f"{revision}: {PARAMS}")
    cache = Path(repo.cache.local.path)
    results = {name: files[name] for name in RESULTS}
    return mismatch(lock, params, results, partial(listed, cache))


def _no_result(names: Sequence[str], reason: str) -> MissingFileError:
    return MissingFileError(
        f"the metrics of {', '.join(names)} are of other parameters: {reason}",
        remedy="run `dvc repro`, which goes on from there",
    )


def _run(names: Sequence[str], files: Mapping[str, bytes], seconds: float | None) -> PipelineRun:
    name = names[0]
    try:
        scores, summary, cost, params = (files[file].decode() for file in FILES)
        return PipelineRun(
            names=tuple(names),
            params=_flat(_yaml(params, f"{name}: params.yaml")),
            scores=_scores(scores),
            images=json.loads(summary)["images"],
            guided_steps=json.loads(cost)["guided_steps_needed"],
            seconds=seconds,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValueError(
            f"{name}: metrics/ must be as `dvc repro` writes it ({one_line(error)})",
            remedy="run it there",
        ) from None


def _scores(text: str) -> pd.DataFrame:
    """Read metrics/tasks.csv; earlier versions of the pipeline did not write `task_id`."""
    floats = {c: [""] for c, kind in SCORES.items() if kind is float}
    table = pd.read_csv(
        io.StringIO(text), dtype=dict(SCORES), keep_default_na=False, na_values=floats
    )
    return table.reindex(columns=list(SCORES)).fillna({"task_id": ""})


def _yaml(text: str, where: object) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidValueError(
            f"is not valid YAML: {one_line(error)}", argument=str(where)
        ) from None
    if not isinstance(values, dict):
        raise InvalidValueError("must contain sections of keys", argument=str(where), value=values)
    return values


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _seconds(root: Path, names: Iterable[str]) -> float | None:
    """Return the total run time of a revision's stages on this machine, or None if unknown."""
    runs = root / ".genie/runs/experiments"
    for name in names:
        here = name == WORKSPACE
        spent = seconds_by_stage(root) if here else seconds_of_experiment(runs / name)
        if spent and (not here or set(spent) == set(STAGES)):  # else some ran elsewhere
            return sum(spent.values())
    return None


def _merged(runs: Sequence[PipelineRun]) -> list[PipelineRun]:
    """Merge runs with the same parameters and scores, such as a workspace and its commit."""
    kept: list[PipelineRun] = []
    for run in runs:
        for i, other in enumerate(kept):
            if run.params == other.params and run.scores.equals(other.scores):
                seconds = run.seconds if other.seconds is None else other.seconds
                kept[i] = replace(other, names=(*other.names, *run.names), seconds=seconds)
                break
        else:
            kept.append(run)
    return kept
