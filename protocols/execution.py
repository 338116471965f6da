"""Runs the rows of a protocol through the stages, and keeps their results.

The rows of a setting share a folder. `prepare` and `train_baseline` run there only if what they
depend on has changed (`upstream.json`). A row's result is kept by its parameters and the files it
reads (`rows/KEY.json`), so a row that ran before is read. Code is not part of the key: each result
names the commit that made it, and `protocols/check.py` runs rows again to compare results.
"""

import functools
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import pandas as pd
import torch
import yaml

from genie.core.seeding import digest, fingerprint
from genie.core.tables import SCORES, TASKS, read_table
from genie.settings import Params, require_paths
from protocols.specification import BASELINE, Row
from stages import evaluate, generate, prepare, retrain, select_sources, train_baseline

UPSTREAM = ("seed", "data", "augment", "prompt", "classifier")
"""Sections of params.yaml that `prepare` and `train_baseline` read."""

CODE = ("genie", "stages")
"""Packages whose code decides results."""


@dataclass(frozen=True)
class Facts:
    """The quality and cost of a row's images (None where there are none), and what made the row.

    `seconds` is the time of its stages; images that the store had already cost nothing here.
    `shared` is what tasks have in common (`shared_support`).
    """

    label_consistency: float | None
    mean_r: float | None
    images: int
    guided_steps: int
    rejected: int
    shared: float
    seconds: float
    commit: str
    machine: str


@dataclass(frozen=True)
class RowResult:
    """The result of one row: the scores of both classifiers (schema SCORES), and facts."""

    scores: pd.DataFrame
    facts: Facts


def run_rows(rows: Sequence[Row]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores by setting, row and task, and facts by setting and row.

    Each setting's first row also gives the scores of the baseline. Raise MissingFileError for a
    path that does not exist, before anything runs.
    """
    for row in rows:
        require_paths(row.params)
    scores: list[pd.DataFrame] = []
    facts: list[dict[str, object]] = []
    begun: set[str] = set()
    missing = [row for row in rows if not _kept(row).is_file()]
    started = time.perf_counter()
    for number, row in enumerate(rows, 1):
        if row in missing:
            left = _left(missing.index(row), len(missing), time.perf_counter() - started)
            click.echo(f"[{number} of {len(rows)}] {row.setting}: {row.name}{left}")
        result = run_row(row)
        name_of = {"augmented": row.name}
        if row.setting not in begun:
            name_of["baseline"] = BASELINE
        begun.add(row.setting)
        own = result.scores[result.scores["model"].isin(name_of)]
        scores.append(own.assign(setting=row.setting, row=own["model"].map(name_of)))
        facts.append({"setting": row.setting, "row": row.name, **asdict(result.facts)})
    return pd.concat(scores, ignore_index=True), pd.DataFrame(facts)


def shared_support(tasks: pd.DataFrame) -> float:
    """Return the share of a task's support images that another task has, averaged over pairs.

    `tasks` has the schema TASKS. With one task it is 0.
    """
    support = tasks[tasks["role"] == "support"]
    others = support["task"].nunique() - 1
    if not others:
        return 0.0
    sharing = support.groupby(["label", "image_id"])["task"].transform("size") - 1
    return round(float((sharing / others).groupby(support["task"]).mean().mean()), 6)


def run_row(row: Row) -> RowResult:
    """Return the result of one row; that of a row that ran before is read."""
    path = _kept(row)
    if path.is_file():
        return _read_result(path)
    begun = time.perf_counter()
    run_stages(row)
    seconds = time.perf_counter() - begun
    summary = json.loads((row.place / "metrics/evaluate.json").read_text())
    cost = json.loads((row.place / "metrics/cost.json").read_text())
    facts = Facts(
        label_consistency=summary["label_consistency"],
        mean_r=summary["mean_r"],
        images=summary["images"],
        guided_steps=cost["guided_steps_needed"],
        rejected=cost["rejected"],
        shared=shared_support(read_table(row.place / "data/prepared/tasks.csv", TASKS)),
        seconds=round(seconds, 1),
        commit=commit(),
        machine=machine(),
    )
    result = RowResult(read_table(row.place / "metrics/tasks.csv", SCORES), facts)
    _write_keys(row.place, path.with_suffix(".parquet"))
    _write_result(result, path)
    return result


def run_stages(row: Row) -> None:
    """Run all stages in the row's folder; the first two only if their dependencies changed."""
    arguments = run_upstream(row)
    shutil.rmtree(row.place / "data/augmented", ignore_errors=True)
    for stage in (select_sources, generate, retrain, evaluate):
        stage.main.main(arguments, standalone_mode=False)


def run_upstream(row: Row) -> list[str]:
    """Run `prepare` and `train_baseline` if needed; return the command-line arguments of stages."""
    row.place.mkdir(parents=True, exist_ok=True)
    file = row.place / "params.yaml"
    file.write_text(yaml.safe_dump(row.params.model_dump(mode="json"), sort_keys=False))
    arguments = ["--params", str(file), "--root", str(row.place)]
    done, upstream = row.place / "upstream.json", upstream_of(row.params)
    if not done.is_file() or done.read_text() != upstream:
        done.unlink(missing_ok=True)
        for stage in (prepare, train_baseline):
            stage.main.main(arguments, standalone_mode=False)
        done.write_text(upstream)
    return arguments


def upstream_of(params: Params) -> str:
    """Return parameters, files and code that `prepare` and `train_baseline` depend on, as JSON."""
    depends_on = {
        "params": params.model_dump(mode="json", include=set(UPSTREAM)),
        # decides how many copies there are
        "every_source": params.sources.strategy == "all",
        "files": _contents(params.data.path, params.classifier.backbone, params.prompt.names),
        "code": fingerprint(Path(), (p for name in CODE for p in Path(name).rglob("*.py"))),
    }
    return json.dumps(depends_on, sort_keys=True)


def row_inputs(params: Params) -> str:
    """Return parameters and contents of files that a row depends on, as JSON."""
    files = _contents(
        params.data.path,
        params.classifier.backbone,
        params.generator.model,
        params.oracle.model,
        params.filter.clip,
        params.prompt.folder,
    )
    return json.dumps([params.model_dump(mode="json"), files], sort_keys=True)


def commit() -> str:
    """Return the commit of the code, with `+` where genie/ or stages/ differ from it."""
    changed = _git("status", "--porcelain", "--", *CODE)
    return _git("rev-parse", "--short=9", "HEAD") + ("+" if changed else "")


def machine() -> str:
    """Return device and number of threads, on which a row's seconds depend."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' if threads > 1 else ''}"


def _kept(row: Row) -> Path:
    """Return the file that keeps the result of a row."""
    return row.place / "rows" / f"{digest(row_inputs(row.params)).hex()[:24]}.json"


def _left(done: int, total: int, seconds: float) -> str:
    """Return the minutes left at the rate so far; nothing before the first row."""
    return f", about {seconds / done * (total - done) / 60:.0f} min left" if done else ""


def _git(*arguments: str) -> str:
    """Return the output of Git, which is empty without a repository."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _contents(*paths: Path) -> list[str]:
    """Return a digest of the files under each path."""
    return [_content(path, tuple(map(_stamp, _under(path)))) for path in paths]


@functools.lru_cache
def _content(path: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Return the digest of a file or folder; other `stamps` mean that it may have changed."""
    folder = path.parent if path.is_file() else path
    return fingerprint(folder, [Path(name) for name, _, _ in stamps])


def _under(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _stamp(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


def _write_keys(place: Path, path: Path) -> None:
    """Record which images of the store a row refers to, so that `genie gc` keeps them."""
    table = pd.read_parquet(place / "data/augmented/trajectories.parquet", columns=["key"])
    path.parent.mkdir(exist_ok=True)
    table.drop_duplicates().to_parquet(path, index=False)


def _write_result(result: RowResult, path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    scores = json.loads(result.scores.to_json(orient="records", double_precision=15))
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"scores": scores, "facts": asdict(result.facts)}))
    unfinished.replace(path)


def _read_result(path: Path) -> RowResult:
    kept = json.loads(path.read_text())
    scores = pd.DataFrame(kept["scores"], columns=list(SCORES)).astype(dict(SCORES))
    return RowResult(scores, Facts(**kept["facts"]))
