import errno
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from genie.errors import GenieError
from stages import common
from stages.common import stage, times_folder

PARAMS = Path(__file__).parents[2] / "params.yaml"


def invoke(error: Exception | None, root: Path):
    def run(params, root):
        if error:
            raise error
        return "it is done"

    return CliRunner().invoke(stage(run), ["--params", str(PARAMS), "--root", str(root)])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GenieError("data.shots must be at most 5"), ["data.shots must be at most 5"]),
        (OSError(errno.ENOSPC, "No space left", "a.png"), ["no space left", "a.png", "free"]),
        (OSError(errno.ENOSPC, "No space left"), ["no space left", "free"]),
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
    assert not times_folder(tmp_path).exists()


def test_defect_keeps_its_traceback(tmp_path):
    assert isinstance(invoke(ZeroDivisionError("ours"), tmp_path).exception, ZeroDivisionError)


def test_stage_closes_with_its_line_and_notes_its_time(tmp_path):
    result = invoke(None, tmp_path)
    assert (result.exit_code, result.stdout) == (0, "it is done\n")
    assert len(list(times_folder(tmp_path).iterdir())) == 1


@pytest.mark.parametrize(
    ("gpus", "rank", "launched"),
    [(0, None, False), (1, None, False), (4, None, True), (4, "0", False)],
)
def test_training_starts_itself_on_each_gpu(gpus, rank, launched, monkeypatch):
    calls = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(sys, "argv", ["retrain.py", "--root", "place"])
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)

    def run(command):
        calls.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    if launched:
        with pytest.raises(SystemExit) as ended:
            common._start_on_each_gpu("stages.retrain")
        assert ended.value.code == 3
        assert calls[0][-4:] == ["--module", "stages.retrain", "--root", "place"]
        assert "--nproc-per-node=4" in calls[0]
    else:
        common._start_on_each_gpu("stages.retrain")
        assert not calls


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("1", False)])
def test_only_the_first_process_writes(rank, first, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert common.is_first_process() == first
