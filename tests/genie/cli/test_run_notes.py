import os
from pathlib import Path

import pytest
import yaml

from genie.cli.places import note_run, runs_folder
from genie.cli.run_notes import (
    STAGES,
    outputs,
    result_of,
    seconds_by_stage,
    seconds_of_experiment,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two stages: `prepare`, and `generate` that reads `noise`."""
    stages = {
        "prepare": {"params": ["seed"], "outs": ["data/prepared"]},
        "generate": {
            "params": ["noise.r"],
            "outs": ["data/augmented"],
            "metrics": [{"metrics/cost.json": {"cache": False}}],
        },
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def set_values(project: Path, r: float, seed: int = 0) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump({"seed": seed, "noise": {"r": r}}))


def make(project: Path, stage: str, content: str, seconds: float) -> None:
    """Write the outputs of a stage as a run does, and note its time."""
    for out in outputs(project / "dvc.yaml", stage):
        file = project / (out if out.endswith(".json") else f"{out}/tasks.csv")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    result = result_of(project, stage)
    note_run(project, stage, seconds=seconds, result=result)


def test_seconds_are_those_of_the_runs_that_made_the_results(project):
    assert seconds_by_stage(project) == {}
    set_values(project, r=0.5)
    make(project, "prepare", "drawn", 3)
    make(project, "generate", "half", 12)
    note_run(project, "rendering", found=7)  # no stage
    assert seconds_by_stage(project) == {"prepare": 3, "generate": 12}


@pytest.mark.parametrize("named", [True, False])
def test_seconds_of_another_experiment_are_left_out(project, monkeypatch, named):
    set_values(project, r=0.5)
    make(project, "prepare", "drawn", 3)
    if named:
        monkeypatch.setenv("DVC_EXP_NAME", "half")
    make(project, "generate", "half", 12)
    if named:
        monkeypatch.setenv("DVC_EXP_NAME", "most")
    set_values(project, r=0.9)
    make(project, "generate", "most", 40)
    assert seconds_by_stage(project) == {"prepare": 3, "generate": 40}
    set_values(project, r=0.5)  # and back, as `git restore .` and `dvc repro` do from the cache
    for out in ("data/augmented/tasks.csv", "metrics/cost.json"):
        (project / out).write_text("half")
    assert seconds_by_stage(project) == {"prepare": 3} | ({"generate": 12} if named else {})


@pytest.mark.parametrize("change", ["params", "data", "old note", "half a note"])
def test_a_note_of_other_parameters_or_outputs_does_not_count(project, change):
    set_values(project, r=0.5)
    make(project, "generate", "half", 12)
    if change == "params":
        set_values(project, r=0.6)
    elif change == "data":
        (project / "data/augmented/tasks.csv").write_text("of other photographs")
    elif change == "old note":
        note_run(project, "generate", seconds=12)
    else:
        (runs_folder(project) / "generate.json").write_text('{"seconds": 1')
    assert seconds_by_stage(project) == {}


def test_parameters_of_other_stages_and_times_of_files_change_nothing(project):
    set_values(project, r=0.5, seed=0)
    make(project, "generate", "half", 12)
    set_values(project, r=0.5, seed=1)
    os.utime(project / "metrics/cost.json", (1, 1))
    assert seconds_by_stage(project) == {"generate": 12}


def test_an_experiment_counts_the_stages_that_it_ran(project, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "one")
    set_values(project, r=0.5)
    make(project, "generate", "half", 12)
    folder = runs_folder(project) / "experiments/one"
    assert seconds_of_experiment(folder) == {"generate": 12}
    assert seconds_of_experiment(folder.with_name("two")) == {}


def test_outputs_are_those_that_the_pipeline_lists():
    assert outputs(ROOT / "dvc.yaml", "select_sources") == [
        "data/sources/confusion.csv",
        "data/sources/sources.csv",
    ]
    assert outputs(ROOT / "dvc.yaml", "nowhere") == outputs(ROOT / "missing.yaml", "prepare") == []


def test_stages_are_those_of_the_pipeline_in_its_order():
    assert list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]) == list(STAGES)
