import errno
from pathlib import Path

import pytest
from click.testing import CliRunner

from genie.errors import GenieError
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
