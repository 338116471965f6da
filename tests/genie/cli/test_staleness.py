import copy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from genie.cli.main import main
from genie.cli.staleness import stage_to_run
from tests.scratch import ROOT, call, commit

LOCK = yaml.safe_load((ROOT / "dvc.lock").read_text())
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


def changed(section: str, **values: object) -> dict:
    return {**PARAMS, section: {**PARAMS[section], **values}}


def test_metrics_of_the_committed_parameters_are_their_result():
    assert stage_to_run(LOCK, PARAMS) is None


@pytest.mark.parametrize(
    ("params", "stage"),
    [
        ({**PARAMS, "seed": 1}, "validate"),
        (changed("noise", r=0.7), "validate"),
        (changed("data", path="photos"), "validate"),
    ],
)
def test_other_parameters_name_the_first_stage(params, stage):
    assert stage_to_run(LOCK, params) == stage


def test_stage_that_ran_alone_leaves_the_later_ones_to_run():
    lock = copy.deepcopy(LOCK)
    params = {**PARAMS, "seed": 1}
    lock["stages"]["validate"]["params"]["params.yaml"]["seed"] = 1
    assert stage_to_run(lock, params) == "prepare"
    lock["stages"]["prepare"]["params"]["params.yaml"]["seed"] = 1
    later = stage_to_run(lock, params)
    assert later not in (None, "validate", "prepare")


def test_input_that_another_run_wrote_leaves_its_reader_to_run():
    """As after `dvc exp run -S data.path=photos prepare`, where later stages have no such key."""
    lock = copy.deepcopy(LOCK)
    lock["stages"]["prepare"]["outs"][0]["md5"] = "0" * 32
    name = stage_to_run(lock, PARAMS)
    path = lock["stages"]["prepare"]["outs"][0]["path"]
    assert name is not None
    assert path in {dep["path"] for dep in lock["stages"][name]["deps"]}


def test_figures_alone_do_not_decide_a_result():
    lock = copy.deepcopy(LOCK)
    del lock["stages"]["analyse"]
    assert stage_to_run(lock, PARAMS) is None
    assert stage_to_run({}, PARAMS) is None


@pytest.fixture
def project(tmp_path) -> Path:
    """A repository with the committed parameters, lock and metrics."""
    place = tmp_path / "project"
    place.mkdir()
    for name in ("params.yaml", "dvc.lock", "metrics"):
        copier = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copier(ROOT / name, place / name)
    call(place, "git", "init", "--quiet")
    subprocess.run(["dvc", "init", "--quiet"], cwd=place, check=True)
    commit(place)
    return place


def test_summary_and_compare_report_no_metrics_of_other_parameters(project):
    run = CliRunner().invoke
    assert run(main, ["summary", "--root", str(project)]).exit_code == 0
    (project / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "seed": 1}))
    result = run(main, ["summary", "--root", str(project)])
    assert result.exit_code == 1
    assert result.output == (
        "Error: metrics/ is not the result of params.yaml: the stage validate has not run with it; "
        "run `dvc repro`\n"
    )
    compared = run(main, ["compare", "--root", str(project), "--format", "csv"])
    assert compared.exit_code == 0, compared.output
    assert "workspace (from the stage validate on)" in compared.stderr
    assert "workspace" not in compared.stdout
    named = run(main, ["compare", "workspace", "--root", str(project)])
    assert named.exit_code == 1
    assert "workspace has metrics of other parameters: the stage validate" in named.output
