import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from genie.cli.main import _progress, main
from genie.cli.places import note_run
from genie.cli.run_notes import result_of
from genie.core.progress import silent
from genie.plan.methods import METHODS
from genie.progress import bar
from genie.settings import read_yaml
from tests.scratch import ROOT
from tests.tracked import make_tracked

RESULT = {
    "baseline": {"mean": 0.6, "low": 0.58, "high": 0.62, "n": 5},
    "augmented": {"mean": 0.65, "low": 0.64, "high": 0.66, "n": 5},
    "gain": {"mean": 0.05, "low": 0.04, "high": 0.06, "n": 5},
    "images": 500,
    "mean_r": 0.7,
    "label_consistency": None,
}


def metrics(root: Path, **changes: object) -> Path:
    """A folder with evaluate.json."""
    folder = root / "metrics"
    folder.mkdir(parents=True)
    (folder / "evaluate.json").write_text(json.dumps(RESULT | changes))
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def error_of(result: Result) -> str:
    """The one line on stderr of a command that failed."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def test_summary_is_a_table_of_what_the_pipeline_found(tmp_path):
    metrics(tmp_path)
    note_run(tmp_path, "generate", seconds=12, result=result_of(tmp_path, "generate"))
    result = run("summary", "--root", tmp_path)
    assert result.exit_code == 0
    assert "+5.0 ± 1.0 %  (95% interval, n = 5 tasks)" in result.stdout
    assert "generate 12" in result.stdout
    for line in result.stdout.splitlines():  # values stand below each other
        assert line[29] == " "
        assert line[30] != " "


def test_summary_names_the_report_once_there_is_one(tmp_path):
    metrics(tmp_path)
    assert "report.html" not in run("summary", "--root", tmp_path).stdout
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/report.html").touch()
    last = run("summary", "--root", tmp_path).stdout.splitlines()[-1]
    assert last.split()[-1] == str(tmp_path / "plots/report.html")


def test_summary_of_another_folder_is_that_of_its_metrics(tmp_path, monkeypatch):
    metrics(tmp_path / "here", images=7)
    monkeypatch.chdir(tmp_path / "here")
    assert run("summary").stdout == run("summary", "--root", tmp_path / "here").stdout
    assert "  7\n" in run("summary").stdout.replace("generated", "")


def test_summary_without_metrics_says_how_to_make_them(tmp_path):
    assert "evaluate.json does not exist; run `dvc repro`" in error_of(
        run("summary", "--root", tmp_path)
    )


def test_equal_metrics_reproduce(tmp_path):
    result = run("reproduced", metrics(tmp_path / "old"), metrics(tmp_path / "new"))
    assert result.exit_code == 0
    assert result.stdout.startswith("metrics reproduce")


def test_other_metrics_do_not_reproduce_and_each_is_named(tmp_path):
    old, new = metrics(tmp_path / "old"), metrics(tmp_path / "new", images=499, mean_r=0.8)
    line = error_of(run("reproduced", old, new))
    assert "images: committed 500, made 499" in line
    assert "mean_r: committed 0.7, made 0.8" in line


def test_errors_of_the_library_name_keys(tmp_path):
    params = read_yaml(ROOT / "params.yaml")
    params["generator"]["model"] = str(tmp_path / "nowhere")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    result = run("preview", tmp_path / "photo.png", "coat", "--params", tmp_path / "params.yaml")
    assert error_of(result).startswith("Error: generator.model must be a folder")


def test_methods_are_those_of_the_registry():
    assert run("methods", "--names").stdout.strip().split(",") == list(METHODS)
    table = run("methods").stdout
    assert all(f"`{name}`" in table for name in METHODS)


@pytest.mark.parametrize(("terminal", "shown"), [(True, bar), (False, silent)])
def test_progress_is_shown_on_a_terminal_alone(terminal, shown, monkeypatch):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal))
    assert _progress() is shown


def test_command_line_starts_without_torch():
    script = "import sys, genie.cli.main; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_every_command_names_what_is_missing_in_one_line(tmp_path):
    old, nowhere = metrics(tmp_path / "old"), tmp_path / "nowhere"
    commands = {
        "new": [tmp_path / "project", "--data", nowhere],
        "summary": ["--root", nowhere],
        "reproduced": [old, nowhere],
        "verify": ["--root", nowhere],
        "gc": ["--root", nowhere],
        "compare": ["--root", nowhere],
        "predict": [nowhere],
        "convert-resnet": [nowhere / "a.pth", tmp_path / "out"],
        "caption": [nowhere, nowhere, tmp_path / "captions.csv"],
        "preview": [nowhere, "coat"],
        "fetch": [old, tmp_path / "out"],  # a local folder is no model of the hub
    }
    others = {"doctor", "methods"}  # one lists what is missing, the other needs nothing
    assert {*commands, *others} == set(main.commands)
    for command, arguments in commands.items():
        line = error_of(run(command, *arguments))
        assert str(old if command == "fetch" else nowhere) in line


@pytest.mark.parametrize("text", ["no json", "[1, 2]"])
def test_metrics_that_are_no_table_of_values_are_named(tmp_path, text):
    old, new = metrics(tmp_path / "old"), metrics(tmp_path / "new")
    (new / "evaluate.json").write_text(text)
    assert "new/metrics/evaluate.json" in error_of(run("reproduced", old, new))
    assert "new/metrics/evaluate.json" in error_of(run("summary", "--root", tmp_path / "new"))


def test_verify_reports_faults_repairs_them_on_request_and_then_finds_none(tmp_path, monkeypatch):
    place = make_tracked(tmp_path / "place")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(place)
    image = next(iter(sorted(Path("data/augmented").glob("*/*.png"))))
    image.write_bytes(b"broken")
    told = run("verify")
    assert told.exit_code == 1
    assert told.stdout == f"{image}: does not decode\n"
    assert "1 faults in data/augmented" in told.stderr
    assert "genie verify --repair" in told.stderr
    healed = run("verify", "--repair")
    assert healed.exit_code == 0
    assert healed.stdout.splitlines() == [
        f"{image}: does not decode (restored)",
        "1 files repaired; run `dvc repro`",
    ]
    assert "DVC's hashes and the store agree" in run("verify").stdout


def test_verify_checks_the_set_that_it_is_given(tmp_path, monkeypatch):
    place = make_tracked(tmp_path / "place")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    shutil.copytree(place / "data/augmented", place / "copy")
    next((place / "copy").glob("*/*.png")).unlink()
    assert "agree" in run("verify", "--root", place).stdout
    assert "is missing" in run("verify", "copy", "--root", place).stdout


def test_gc_only_counts_without_delete(tmp_path, monkeypatch):
    place = make_tracked(tmp_path / "place")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    stray = place / f".genie/store/ff/{'f' * 64}.png"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(bytes(5_000_000))
    assert run("gc", "--root", place).stdout.startswith("0 images")  # it is young
    assert run("gc", "--root", place, "--days", 0).stdout == (
        "1 images (5.0 MB) in the store can be deleted with --delete, 18 are kept\n"
    )
    assert stray.exists()
    assert run("gc", "--root", place, "--days", 0, "--delete").stdout == (
        "1 images (5.0 MB) deleted from the store, 18 kept\n"
    )
    assert not stray.exists()
