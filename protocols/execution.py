"""Runs the rows of a protocol through the stages, and keeps what they gave.

The runs of a setting share a folder. `prepare` and `train_baseline` run there only if what they
depend on has changed (`upstream.json`). A row's result is kept by its parameters and the files it
reads (`rows/KEY.json`), so a row that ran before is read. Code is not part of the key: each result
names the commit that made it, and `protocols/check.py` runs rows again to see whether they hold.
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

from genie.keyed import digest, fingerprint
from genie.tables import SCORES, TASKS, read_table
from protocols.specification import BASELINE, Run
from stages import evaluate, generate, prepare, retrain, select_sources, train_baseline
from stages.shared.params import Params
from stages.validate import check_paths

UPSTREAM = ("seed", "data", "augment", "prompt", "classifier")
"""Sections of params.yaml that `prepare` and `train_baseline` read."""

CODE = ("genie", "stages")
"""Packages whose code decides results."""


@dataclass(frozen=True)
class Facts:
    """What a row's images are like and cost (None where there are none), and what made the row.

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
class Result:
    """What one run gave: the scores of both classifiers (schema SCORES), and facts."""

    scores: pd.DataFrame
    facts: Facts


def run_rows(runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores by setting, row and task, and facts by setting and row.

    Each setting's first run also gives the scores of the baseline. GenieError for a path that is
    not there, before anything runs.
    """
    for run in runs:
        check_paths(run.params)
    scores: list[pd.DataFrame] = []
    facts: list[dict[str, object]] = []
    begun: set[str] = set()
    missing = [run for run in runs if not _kept(run).is_file()]
    started = time.perf_counter()
    for number, run in enumerate(runs, 1):
        if run in missing:
            left = _left(missing.index(run), len(missing), time.perf_counter() - started)
            click.echo(f"[{number} of {len(runs)}] {run.setting}: {run.row}{left}")
        result = run_row(run)
        row_of = {"augmented": run.row}
        if run.setting not in begun:
            row_of["baseline"] = BASELINE
        begun.add(run.setting)
        own = result.scores[result.scores["model"].isin(row_of)]
        scores.append(own.assign(setting=run.setting, row=own["model"].map(row_of)))
        facts.append({"setting": run.setting, "row": run.row, **asdict(result.facts)})
    return pd.concat(scores, ignore_index=True), pd.DataFrame(facts)


def shared_support(tasks: pd.DataFrame) -> float:
    """The share of a task's support images that another task has too, its mean over pairs of tasks.

    `tasks` has the schema TASKS; one task shares nothing.
    """
    support = tasks[tasks["role"] == "support"]
    others = support["task"].nunique() - 1
    if not others:
        return 0.0
    sharing = support.groupby(["label", "image_id"])["task"].transform("size") - 1
    return round(float((sharing / others).groupby(support["task"]).mean().mean()), 6)


def run_row(run: Run) -> Result:
    """The result of one run; one that ran before is read."""
    path = _kept(run)
    if path.is_file():
        return _read_result(path)
    begun = time.perf_counter()
    run_stages(run)
    seconds = time.perf_counter() - begun
    summary = json.loads((run.place / "metrics/evaluate.json").read_text())
    cost = json.loads((run.place / "metrics/cost.json").read_text())
    facts = Facts(
        label_consistency=summary["label_consistency"],
        mean_r=summary["mean_r"],
        images=summary["images"],
        guided_steps=cost["guided_steps_needed"],
        rejected=cost["rejected"],
        shared=shared_support(read_table(run.place / "data/prepared/tasks.csv", TASKS)),
        seconds=round(seconds, 1),
        commit=commit(),
        machine=machine(),
    )
    result = Result(read_table(run.place / "metrics/tasks.csv", SCORES), facts)
    _write_keys(run.place, path.with_suffix(".parquet"))
    _write_result(result, path)
    return result


def run_stages(run: Run) -> None:
    """All stages in the run's folder; the early ones only if what they depend on has changed."""
    arguments = run_upstream(run)
    shutil.rmtree(run.place / "data/augmented", ignore_errors=True)
    for stage in (select_sources, generate, retrain, evaluate):
        stage.main.main(arguments, standalone_mode=False)


def run_upstream(run: Run) -> list[str]:
    """Run `prepare` and `train_baseline` if needed; return the command-line arguments of stages."""
    run.place.mkdir(parents=True, exist_ok=True)
    file = run.place / "params.yaml"
    file.write_text(yaml.safe_dump(run.params.model_dump(mode="json"), sort_keys=False))
    arguments = ["--params", str(file), "--root", str(run.place)]
    done, upstream = run.place / "upstream.json", upstream_of(run.params)
    if not done.is_file() or done.read_text() != upstream:
        done.unlink(missing_ok=True)
        for stage in (prepare, train_baseline):
            stage.main.main(arguments, standalone_mode=False)
        done.write_text(upstream)
    return arguments


def upstream_of(params: Params) -> str:
    """All that `prepare` and `train_baseline` depend on, as text: parameters, files and code."""
    known = {
        "params": params.model_dump(mode="json", include=set(UPSTREAM)),
        # decides how many copies there are
        "every_source": params.sources.strategy == "all",
        "files": _contents(params.data.path, params.classifier.backbone, params.prompt.names),
        "code": fingerprint(Path(), (p for name in CODE for p in Path(name).rglob("*.py"))),
    }
    return json.dumps(known, sort_keys=True)


def row_inputs(params: Params) -> str:
    """All that a row depends on but code, as text: parameters and the contents of files."""
    files = _contents(
        *(params.data.path, params.classifier.backbone, params.generator.model),
        *(params.oracle.model, params.filter.clip, params.prompt.folder),
    )
    return json.dumps([params.model_dump(mode="json"), files], sort_keys=True)


def commit() -> str:
    """The commit of the code, with `+` where genie/ or stages/ differ from it."""
    changed = _git("status", "--porcelain", "--", *CODE)
    return _git("rev-parse", "--short=9", "HEAD") + ("+" if changed else "")


def machine() -> str:
    """What a row's seconds depend on, without the machine's name."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' if threads > 1 else ''}"


def _kept(run: Run) -> Path:
    """Where the result of a run is kept."""
    return run.place / "rows" / f"{digest(row_inputs(run.params)).hex()[:24]}.json"


def _left(done: int, wanted: int, seconds: float) -> str:
    """The minutes that the rest of the rows takes at the rate so far; nothing before the first."""
    return f", about {seconds / done * (wanted - done) / 60:.0f} min left" if done else ""


def _git(*arguments: str) -> str:
    """Git's answer, or nothing where there is no repository."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _contents(*paths: Path) -> list[str]:
    """A digest of the files under each path."""
    return [_content(path, tuple(map(_stamp, _under(path)))) for path in paths]


@functools.lru_cache
def _content(path: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """The digest of a file or folder; `stamps` tell whether it has changed since the last call."""
    folder = path.parent if path.is_file() else path
    return fingerprint(folder, [Path(name) for name, _, _ in stamps])


def _under(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _stamp(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


def _write_keys(place: Path, path: Path) -> None:
    """Note which images of the store a row refers to, so that `genie gc` keeps them."""
    table = pd.read_parquet(place / "data/augmented/trajectories.parquet", columns=["key"])
    path.parent.mkdir(exist_ok=True)
    table.drop_duplicates().to_parquet(path, index=False)


def _write_result(result: Result, path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    scores = json.loads(result.scores.to_json(orient="records", double_precision=15))
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"scores": scores, "facts": asdict(result.facts)}))
    unfinished.replace(path)


def _read_result(path: Path) -> Result:
    kept = json.loads(path.read_text())
    scores = pd.DataFrame(kept["scores"], columns=list(SCORES)).astype(dict(SCORES))
    return Result(scores, Facts(**kept["facts"]))
