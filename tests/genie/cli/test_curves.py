import logging
from pathlib import Path

import pandas as pd
import pytest

from genie.cli.curves import Curves, recording_speed
from genie.core.progress import silent
from genie.plan.requests import Request
from genie.render.engine import Rendered
from tests.scratch import call, commit


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git and DVC repository with a commit, the current folder."""
    monkeypatch.chdir(tmp_path)
    call(tmp_path, "git", "init", "--quiet")
    call(tmp_path, "dvc", "init", "--quiet")
    (tmp_path / ".gitignore").write_text(".genie/\n")
    commit(tmp_path)
    return tmp_path


def curve(place: Path, stage: str, name: str) -> pd.DataFrame:
    return pd.read_csv(place / f".genie/runs/{stage}/plots/metrics/{name}.tsv", sep="\t")


def test_curves_are_tables_and_figures_outside_of_git_and_metrics(place):
    curves = Curves(Path(), "retrain")
    for task in range(2):
        for step in range(3):
            curves.record(f"loss/task_{task}", step, 3.0 - step + task)
    curves.end()
    for task in range(2):
        table = curve(place, "retrain", f"loss/task_{task}")
        assert list(table["step"]) == [0, 1, 2]
        assert list(table[f"task_{task}"]) == [3.0 + task, 2.0 + task, 1.0 + task]
    report = (place / ".genie/runs/retrain/report.md").read_text()
    assert "static/loss/task_1.png" in report
    assert (place / ".genie/runs/retrain/static/loss/task_1.png").is_file()
    assert call(place, "git", "status", "--porcelain") == ""
    assert [p.name for p in place.glob("dvc*.yaml")] == []


def test_another_run_replaces_the_curves(place):
    for values in ([1.0, 2.0], [5.0]):
        curves = Curves(Path(), "generate")
        for step, value in enumerate(values):
            curves.record("images_kept", step, value)
        curves.end()
    assert list(curve(place, "generate", "images_kept")["images_kept"]) == [5.0]


def test_nothing_is_written_without_values_or_by_another_process(place, monkeypatch):
    Curves(Path(), "retrain").end()
    monkeypatch.setenv("RANK", "1")
    other = Curves(Path(), "retrain")
    other.record("loss", 0, 1.0)
    other.end()
    assert not (place / ".genie").exists()


def test_repository_without_a_commit_gets_a_warning_and_no_curves(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    call(tmp_path, "git", "init", "--quiet")
    call(tmp_path, "dvc", "init", "--quiet")
    curves = Curves(Path(), "retrain")
    with caplog.at_level(logging.WARNING):
        curves.record("loss", 0, 1.0)
        curves.record("loss", 1, 1.0)
    curves.end()
    assert caplog.text.count("before the first commit") == 1
    assert not (tmp_path / ".genie").exists()


def batches() -> list[list[Rendered]]:
    """Three batches of one, two and one image, of 40 guided steps each."""
    request = Request("id", "bag", "coat", "a coat", "", 0.5, 0, 0, "")
    image = Rendered(request, b"", 40, 2, False)
    return [[image], [image, image], [image]]


def test_speed_is_guided_steps_per_second_by_image_count(place):
    curves = Curves(Path(), "generate")
    bar = recording_speed(silent, curves, seconds=0)
    assert list(bar(batches(), "generate", total=4, weight=len, whole=True)) == batches()
    curves.end()
    table = curve(place, "generate", "steps_per_second")
    assert list(table["step"]) == [1, 3, 4]
    assert (table["steps_per_second"] > 0).all()
    slow = recording_speed(silent, curves, seconds=3600)
    assert len(list(slow(batches(), "generate", total=4))) == 3
    assert len(curve(place, "generate", "steps_per_second")) == 3


def test_speed_of_other_loops_is_not_recorded(place):
    curves = Curves(Path(), "train")
    bar = recording_speed(silent, curves, seconds=0)
    assert list(bar(range(3), "reading images", total=3)) == [0, 1, 2]
    curves.end()
    assert not (place / ".genie").exists()
