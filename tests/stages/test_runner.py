import errno
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import transformers
import yaml
from click.testing import CliRunner
from safetensors import SafetensorError

from genie.cli.places import runs_folder
from genie.core.errors import GenieError, InvalidValueError
from stages.runner import Context, stage
from tests.scratch import call, commit

PARAMS = Path(__file__).parents[2] / "params.yaml"


def invoke(error: Exception | None, root: Path):
    def run(params, context):
        if error:
            raise error
        assert context.root == root
        return "it is done"

    return CliRunner().invoke(stage(run), ["--params", str(PARAMS), "--root", str(root)])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GenieError("data.shots must be at most 5"), ["data.shots must be at most 5"]),
        (
            InvalidValueError("must be at least 1", argument="shots", value=0, remedy="or `steps`"),
            ["Error: data.shots must be at least 1, got 0; or `generator.steps`"],
        ),
        (OSError(errno.ENOSPC, "No space left", "a.png"), ["no space left", "a.png", "free"]),
        (OSError(errno.ENOSPC, "No space left"), ["no space left", "free"]),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ["no space left", "free"]),
        (SafetensorError("I/O error: ... (os error 28)"), ["no space left", "free"]),
        (sqlite3.OperationalError("database or disk is full"), ["no space left", "free"]),
        (sqlite3.DatabaseError("file is not a database"), ["features.sqlite", "delete it"]),
        (MemoryError(), ["memory of this machine is exhausted", "generator.batch_size"]),
        (RuntimeError("can't allocate memory: 9 bytes"), ["exhausted", "classifier.batch_size"]),
        (PermissionError(errno.EACCES, "Permission denied", "b"), ["b: Permission denied"]),
    ],
)
def test_error_is_one_line_with_code_1_and_no_time_is_noted(tmp_path, error, words):
    result = invoke(error, tmp_path)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert all(word in line for word in words)
    assert not runs_folder(tmp_path).exists()


def test_defect_keeps_its_traceback(tmp_path):
    assert isinstance(invoke(ZeroDivisionError("ours"), tmp_path).exception, ZeroDivisionError)


def test_stage_closes_with_its_line_and_notes_its_time(tmp_path):
    result = invoke(None, tmp_path)
    assert (result.exit_code, result.stdout) == (0, "it is done\n")
    (noted,) = runs_folder(tmp_path).iterdir()
    assert json.loads(noted.read_text())["seconds"] >= 0


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_outputs_that_are_links_into_a_cache_are_replaced(tmp_path, link, monkeypatch):
    stages = {"prepare": {"outs": ["data", {"one.csv": {"cache": False}}], "plots": ["gone.csv"]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (tmp_path / "cache").mkdir()
    names = ["data/inner/two.csv", "one.csv", "other.csv"]
    for number, name in enumerate(names):
        kept, place = tmp_path / f"cache/{number}", tmp_path / name
        kept.write_text("recorded")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.hardlink_to(kept) if link == "hardlink" else place.symlink_to(kept)
    (tmp_path / "gone.csv").symlink_to(tmp_path / "cache/gone")  # by `dvc gc`
    (tmp_path / "data/own.csv").write_text("no link")
    monkeypatch.chdir(tmp_path)

    def run(params, context):
        assert (tmp_path / "data/own.csv").read_text() == "no link"
        assert (tmp_path / "other.csv").read_text() == "recorded"  # of another stage
        for name in ("data/inner/two.csv", "one.csv", "gone.csv"):
            (context.root / name).write_text("new")
        return "done"

    run.__module__ = "stages.prepare"
    arguments = ["--params", str(PARAMS), "--root", str(tmp_path)]
    result = CliRunner().invoke(stage(run), arguments)
    assert result.exit_code == 0, result.output
    assert [p.read_text() for p in (tmp_path / "cache").iterdir()] == ["recorded"] * 3


def test_other_processes_of_a_training_neither_note_nor_say_anything(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = invoke(None, tmp_path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert not runs_folder(tmp_path).exists()


def test_error_of_an_experiment_says_that_params_yaml_keeps_its_values(tmp_path, monkeypatch):
    shutil.copy(PARAMS, tmp_path)
    call(tmp_path, "git", "init", "--quiet")
    commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_EXP_NAME", "tried")
    file = tmp_path / "params.yaml"
    file.write_text(file.read_text().replace("r: ada", "r: 1.7"))

    def run(params, context):
        raise AssertionError("it ran")

    result = CliRunner().invoke(stage(run), [])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "noise.r must be" in result.stderr
    assert result.stderr.endswith(
        "; params.yaml keeps the values of this experiment for the next one "
        "(`git diff params.yaml` shows, `git restore params.yaml` removes them)\n"
    )


def test_bad_parameters_end_a_stage_before_it_runs(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: -1\n")
    arguments = ["--params", str(tmp_path / "params.yaml"), "--root", str(tmp_path)]

    def run(params, context):
        raise AssertionError("it ran")

    result = CliRunner().invoke(stage(run), arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("gpus", "rank", "head", "launched"),
    [
        (0, None, "finetune", False),
        (1, None, "finetune", False),
        (4, None, "finetune", True),
        (4, None, "logistic", False),
        (4, "0", "finetune", False),
    ],
)
def test_training_starts_itself_on_each_gpu(gpus, rank, head, launched, tmp_path, monkeypatch):
    raw = yaml.safe_load(PARAMS.read_text())
    raw["classifier"]["head"] = head
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    arguments = ["--params", str(tmp_path / "params.yaml"), "--root", str(tmp_path)]
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(sys, "argv", ["stages/retrain.py", *arguments])
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    launches = []
    start = subprocess.run

    def launch(command, **options):
        if options:  # of git
            return start(command, **options)
        launches.append(command)
        return subprocess.CompletedProcess(command, 3)

    def run(params, context):
        return "trained here"

    monkeypatch.setattr(subprocess, "run", launch)
    run.__module__ = "__main__"  # as `python -m stages.retrain` has it
    result = CliRunner().invoke(stage(run, trains=True), arguments)
    if launched:
        assert (result.exit_code, result.stdout) == (3, "")
        assert launches[0][-6:] == ["--module", "stages.retrain", *arguments]
        assert "--nproc-per-node=4" in launches[0]
    else:
        assert (result.exit_code, result.stdout) == (0, "trained here\n")
        assert not launches


def test_libraries_that_are_loaded_show_no_bars_of_their_own(tmp_path):
    libraries = [transformers.utils.logging, diffusers.utils.logging]
    for library in libraries:
        library.enable_progress_bar()
    assert invoke(None, tmp_path).exit_code == 0
    assert not any(library.is_progress_bar_enabled() for library in libraries)


@pytest.mark.parametrize(("rank", "writes"), [(None, True), ("0", True), ("1", False)])
def test_only_the_first_process_writes_outputs(rank, writes, tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    contexts: list[Context] = []

    def run(params, context):
        contexts.append(context)
        return "done"

    arguments = ["--params", str(PARAMS), "--root", str(tmp_path)]
    assert CliRunner().invoke(stage(run), arguments).exit_code == 0
    assert [context.writes for context in contexts] == [writes]


def test_hints_of_other_libraries_are_hidden_whatever_a_stage_imports_first():
    script = "import stages.generate, sys; print('diffusers' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PARAMS.parent, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_warning_names_keys_in_place_of_arguments(tmp_path):
    script = (
        "import logging, sys\n"
        "from stages.runner import stage\n"
        "def run(params, context):\n"
        "    logging.getLogger('genie').warning('`min_position` %g is high', 3)\n"
        "    return 'done'\n"
        "stage(run)(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--params", PARAMS, "--root", tmp_path],
        cwd=PARAMS.parent,
        capture_output=True,
        text=True,
    )
    assert done.stderr == "Warning: `noise.min_position` 3 is high\n"
    assert done.stdout == "done\n"
