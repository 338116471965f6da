"""Notes on runs: which run of a stage wrote the files in a folder, and how long it took."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from genie.cli.places import runs_folder
from genie.core.errors import GenieError
from genie.core.seeding import digest, fingerprint
from genie.settings import read_yaml

STAGES = (
    "validate",
    "prepare",
    "train_baseline",
    "select_sources",
    "generate",
    "retrain",
    "evaluate",
    "analyse",
)

_IMAGES = ".parquet"  # large, and the tables beside them list what they contain


def outputs(pipeline: Path, stage: str) -> list[str]:
    """Return the outputs of a stage in a dvc.yaml file, or [] if the stage does not exist."""
    entry = _entry(pipeline, stage)
    listed = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in listed]


def result_of(
    root: Path, stage: str, *, pipeline: Path | None = None, params: Path | None = None
) -> str:
    """Return a hash of a stage's parameters and outputs, which identifies its result.

    `pipeline` is the dvc.yaml file that lists the parameters and outputs, and `params` is the file
    with the parameter values; both default to the files in `root`. In an output folder, only the
    tables and weights at the top level are hashed.
    """
    pipeline, params = pipeline or root / "dvc.yaml", params or root / "params.yaml"
    values: dict[str, Any] = {}
    with suppress(GenieError):
        values = read_yaml(params)
    keys = [key for key in _entry(pipeline, stage).get("params", []) if isinstance(key, str)]
    own = {key: _value(values, key) for key in keys}
    places = [root / out for out in outputs(pipeline, stage)]
    files = [file for place in places for file in (place, *place.glob("*")) if file.is_file()]
    made = fingerprint(root, (file for file in files if file.suffix != _IMAGES))
    return digest(json.dumps(own, sort_keys=True, default=str) + made).hex()


def seconds_by_stage(root: Path) -> dict[str, float]:
    """Return the run time in seconds of each stage whose result was computed on this machine.

    A stage is left out if its result comes from another machine, or from a run before the last one.
    """
    runs, spent = runs_folder(root), {}
    for stage in STAGES:
        result = result_of(root, stage)
        notes = [runs / f"{stage}.json", *sorted(runs.glob(f"experiments/*/{stage}.json"))]
        same = [note for path in notes if (note := _read(path)).get("result") == result]
        if same:
            spent[stage] = same[0]["seconds"]
    return spent


def seconds_of_experiment(folder: Path) -> dict[str, float]:
    """Return the run times by stage, in seconds, in the notes of an experiment's folder."""
    noted = {stage: _read(folder / f"{stage}.json") for stage in STAGES}
    return {stage: note["seconds"] for stage, note in noted.items() if note}


def _read(path: Path) -> dict[str, Any]:
    note: dict[str, Any] = {}
    with suppress(FileNotFoundError, ValueError):  # or half written by a run that was killed
        note = json.loads(path.read_text())
    return note


def _entry(pipeline: Path, stage: str) -> dict[str, Any]:
    with suppress(GenieError, KeyError, TypeError):
        entry = read_yaml(pipeline)["stages"][stage]
        return entry if isinstance(entry, dict) else {}
    return {}


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
