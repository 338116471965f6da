"""The scripts that CI calls, on a small git and DVC repository with metrics and no code."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.scratch import ENVIRONMENT, ROOT, call, commit

STAGE = """
stages:
  evaluate:
    cmd:
    - mkdir -p metrics plots
    - cp wanted.json metrics/evaluate.json
    - touch plots/contact_sheet.png
    deps: [wanted.json]
    metrics: [metrics/evaluate.json: {cache: false}]
    plots: [plots/contact_sheet.png]
"""
RESULT = {"gain": {"mean": 0.05, "n": 5}, "images": 500}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository whose pipeline copies wanted.json to the metrics; it has not run yet."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "dvc.yaml").write_text(STAGE)
    (tmp_path / ".gitignore").write_text("/plots\n/report.md\n")
    call(tmp_path, "git", "init", "--quiet")
    call(tmp_path, "dvc", "init", "--quiet")
    want(tmp_path, RESULT)
    commit(tmp_path)
    return tmp_path


def want(place: Path, result: dict[str, object]) -> None:
    (place / "wanted.json").write_text(json.dumps(result))


def reproduce(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [place / ".ci/reproduce", *command],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def test_first_run_asks_for_a_commit_and_later_ones_compare_with_it(place):
    first = reproduce(place)
    assert first.returncode == 0, first.stderr
    assert "no metrics are committed yet" in first.stdout
    commit(place)
    assert "metrics reproduce" in reproduce(place).stdout
    want(place, RESULT | {"images": 499})
    other = reproduce(place)
    assert other.returncode == 1
    assert "images: committed 500, made 499" in other.stderr


def test_another_command_runs_in_place_of_the_pipeline(place):
    (place / "metrics").mkdir()
    (place / "metrics/evaluate.json").write_text(json.dumps(RESULT))
    commit(place)
    done = reproduce(place, "sh", "-c", "echo made by other means")
    assert "made by other means" in done.stdout
    assert "metrics reproduce" in done.stdout
    assert not (place / "dvc.lock").exists()
    assert reproduce(place, "false").returncode == 1


def test_report_has_the_difference_and_the_contact_sheet(place):
    call(place, "dvc", "repro")
    commit(place)
    want(place, RESULT | {"gain": {"mean": 0.07, "n": 5}})
    call(place, "dvc", "repro")
    call(place, ".ci/report", "HEAD")
    report = (place / "report.md").read_text()
    (line,) = [line for line in report.splitlines() if "gain.mean" in line]
    assert [cell.strip() for cell in line.split("|")][3:6] == ["0.05", "0.07", "0.02"]
    assert "](plots/contact_sheet.png)" in report


def test_report_against_a_commit_without_metrics_has_none_to_compare(place):
    call(place, "dvc", "repro")
    call(place, ".ci/report", "HEAD")
    assert "500" in (place / "report.md").read_text()
