"""Runs read from a real repository with branches, tags and DVC's experiments."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from dvc.repo import Repo
from scipy import stats

from genie.cli.dvc_cache import md5
from genie.cli.main import main
from genie.cli.places import note_run
from genie.cli.recorded import RESULTS
from genie.cli.revisions import Selection, position, read_parameters, read_runs
from genie.cli.run_notes import STAGES, result_of
from genie.core.errors import GenieError
from genie.core.tables import SCORES
from tests.scratch import call

RATIOS: tuple[float | str, ...] = ("ada", 0.5, 0.6, 0.7, 0.8)
SEEDS, TASKS = range(5), 6


def write_run(place: Path, changes: Mapping[str, object]) -> None:
    """Write params.yaml and the metrics of a run with it, deterministic by its parameters."""
    params = {"seed": 0, "data": {"shots": 5}, "noise": {"r": "ada"}, **changes}
    seed, ratio = params["seed"], params["noise"]["r"]
    of_seed, of_run = np.random.default_rng([seed]), np.random.default_rng([seed, hash_of(ratio)])
    base = of_seed.normal(0.6, 0.03, TASKS)
    gains = of_run.normal(0.05, 0.02, TASKS) + (0.02 if ratio == "ada" else 0)
    rows = [
        {"task": t, "task_id": f"{seed}-{t}", "model": model, "accuracy": value[t], "queries": 9}
        for t in range(TASKS)
        for model, value in (("augmented", base + gains), ("baseline", base))
    ]
    (place / "metrics").mkdir(exist_ok=True)
    table = pd.DataFrame(rows).reindex(columns=list(SCORES)).round(6)
    table.to_csv(place / "metrics/tasks.csv", index=False)
    (place / "metrics/evaluate.json").write_text(json.dumps({"images": 40 + seed}))
    (place / "metrics/cost.json").write_text(json.dumps({"guided_steps_needed": 100}))
    (place / "params.yaml").write_text(yaml.safe_dump(params))
    record(place, params)


def record(place: Path, params: Mapping[str, object]) -> None:
    """Write dvc.lock of the one stage that made the metrics."""
    outs = [{"path": name, "md5": md5((place / name).read_bytes())} for name in RESULTS]
    stage = {"cmd": "run", "params": {"params.yaml": dict(params)}, "outs": outs}
    lock = {"schema": "2.0", "stages": {"run": stage}}
    (place / "dvc.lock").write_text(yaml.safe_dump(lock))


def hash_of(ratio: float | str) -> int:
    return RATIOS.index(ratio)


def git(place: Path, *arguments: str) -> str:
    return call(place, "git", *arguments).strip()


def commit_all(place: Path) -> str:
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "--allow-empty", "--message", "run")
    return git(place, "rev-parse", "HEAD")


def experiment(place: Path, name: str, **changes: object) -> str:
    """A commit on top of HEAD under the ref that `dvc exp run` gives its experiments."""
    head = git(place, "rev-parse", "HEAD")
    write_run(place, changes)
    made = commit_all(place)
    git(place, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", made)
    git(place, "reset", "--quiet", "--hard", head)
    return made


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an experiment per ratio and seed, a branch, a tag and an old commit."""
    place = tmp_path_factory.mktemp("revisions") / "repository"
    place.mkdir()
    git(place, "init", "--quiet", "--initial-branch", "main")
    Repo.init(str(place)).close()
    (place / "dvc.yaml").write_text("stages: {}\n")
    commit_all(place)  # no metrics yet
    write_run(place, {})
    commit_all(place)
    git(place, "tag", "v1")
    git(place, "switch", "--quiet", "--create", "side")
    write_run(place, {"data": {"shots": 3}})
    commit_all(place)
    git(place, "switch", "--quiet", "main")
    for ratio in RATIOS:
        for seed in SEEDS:
            experiment(place, f"r{ratio}-s{seed}", noise={"r": ratio}, seed=seed)
    return place


def names(place: Path, *revisions: str, **swept: bool) -> list[str]:
    return [run.name for run in read_runs(place, Selection(revisions, **swept))[0]]


def compare(place: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", "--root", str(place), *map(str, arguments)])


def csv_of(place: Path, *arguments: object) -> pd.DataFrame:
    result = compare(place, *arguments, "--format", "csv")
    assert result.exit_code == 0, result.output
    path = place.parent / "table.csv"
    path.write_text(result.stdout)
    return pd.read_csv(path)


def test_named_revisions_come_in_the_order_given(repository):
    assert names(repository, "r0.5-s1", "side", "v1") == ["r0.5-s1", "side", "v1"]


def test_names_of_one_commit_are_one_run(repository):
    (run,) = read_runs(repository, Selection(("main", "v1", "HEAD")))[0]
    assert run.names == ("main", "v1", "HEAD")
    assert run.params == {"seed": 0, "data.shots": 5, "noise.r": "ada"}
    assert (run.images, run.guided_steps, run.seconds) == (40, 100, None)


def test_without_names_head_its_experiments_and_the_workspace_are_read(repository):
    found = names(repository)
    assert found[0] == "HEAD, rada-s0, workspace"  # the same parameters and results
    assert sorted(found[1:]) == sorted(
        f"r{r}-s{s}" for r in RATIOS for s in SEEDS if (r, s) != ("ada", 0)
    )


def test_branches_tags_and_commits_are_swept(repository):
    assert set(names(repository, branches=True)) == {"main", "side"}
    assert names(repository, tags=True) == ["v1"]
    runs, notes = read_runs(repository, Selection(commits=True))
    assert {git(repository, "rev-parse", run.names[0]) for run in runs} == {
        git(repository, "rev-parse", name) for name in ("main", "side")
    }
    (note,) = notes
    first = git(repository, "rev-list", "--max-parents=0", "main")
    assert note == f"left out, because they have no metrics: {first[:7]}"


def test_experiments_of_other_commits_are_read_on_request(repository, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(repository, clone, symlinks=True)
    write_run(clone, {"seed": 7})
    commit_all(clone)
    assert len(names(clone)) == 1
    assert len(names(clone, experiments=True)) == 25


def test_an_edited_workspace_is_a_run_of_its_own(repository, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(repository, clone, symlinks=True)
    write_run(clone, {"noise": {"r": 0.5}, "seed": 3})
    assert "r0.5-s3, workspace" in names(clone)
    write_run(clone, {"noise": {"r": 0.5}, "seed": 9})
    assert names(clone)[-1] == "workspace"
    assert read_parameters(clone)["seed"] == 9


def test_seconds_are_those_noted_on_this_machine(repository, tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    shutil.copytree(repository, clone, symlinks=True)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(clone))
    for stage in STAGES:
        note_run(clone, stage, seconds=2, result=result_of(clone, stage))
    note_run(clone, "evaluate", seconds=100, result="of another experiment")
    spent = {run.names[0]: run.seconds for run in read_runs(clone, Selection())[0]}
    assert spent["HEAD"] is None  # the seconds of one stage are not known
    note_run(clone, "evaluate", seconds=1, result=result_of(clone, "evaluate"))
    monkeypatch.setenv("DVC_EXP_NAME", "r0.5-s1")
    note_run(tmp_path / "a temporary folder of dvc", "generate", seconds=1.5)
    spent = {run.names[0]: run.seconds for run in read_runs(clone, Selection())[0]}
    assert spent["HEAD"] == 2 * len(STAGES) - 1  # the workspace is HEAD
    assert spent["r0.5-s1"] == 1.5
    assert spent["r0.5-s2"] is None


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("nowhere", "a branch, tag, commit, experiment or 'workspace' (.*), got 'nowhere'"),
        ("main~1", "main~1 has no metrics/tasks.csv; run `dvc repro` there"),
    ],
)
def test_revision_that_cannot_be_read_is_named(repository, revision, message):
    with pytest.raises(GenieError, match=message):
        read_runs(repository, Selection((revision,)))


def test_metrics_that_are_no_metrics_are_named(repository, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(repository, clone, symlinks=True)
    (clone / "metrics/cost.json").write_text("{}")
    record(clone, yaml.safe_load((clone / "params.yaml").read_text()))
    with pytest.raises(GenieError, match="workspace: metrics/ must be as `dvc repro` writes it"):
        read_runs(clone, Selection(("workspace",)))
    (clone / "params.yaml").write_text("a: [")
    with pytest.raises(GenieError, match=r"workspace: params.yaml is not valid YAML"):
        read_runs(clone, Selection(("workspace",)))


def test_metrics_beside_other_parameters_are_no_result(repository, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(repository, clone, symlinks=True)
    old = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(old.replace("shots: 5", "shots: 9"))
    head = git(clone, "rev-parse", "HEAD")
    edited = commit_all(clone)
    git(clone, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/edited", edited)
    git(clone, "reset", "--quiet", "--soft", head)
    why = (
        "are of other parameters: stage run ran with data.shots 5, params.yaml has 9; "
        "run `dvc repro`, which goes on from there"
    )
    result = compare(clone)
    assert (
        result.stderr.splitlines()[0]
        == f"Note: left out, because the metrics of edited, workspace {why}"
    )
    assert "9" not in result.stdout.split()
    for name in ("edited", "workspace"):
        named = compare(clone, "HEAD", name)
        assert (named.exit_code, named.stdout) == (1, "")
        assert named.stderr == f"Error: the metrics of {name} {why}\n"
    summary = CliRunner().invoke(main, ["summary", "--root", str(clone)])
    assert (summary.exit_code, summary.stdout) == (1, "")
    assert summary.stderr == f"Error: the metrics of workspace {why}\n"


def test_metrics_that_dvc_never_recorded_are_no_result(repository, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(repository, clone, symlinks=True)
    (clone / "dvc.lock").unlink()
    with pytest.raises(GenieError, match=r"workspace are of .* no stage in dvc.lock made metrics/"):
        read_runs(clone, Selection(("workspace",)))
    (clone / "dvc.lock").write_text("<<<<<<< HEAD\nschema: '2.0'\n")
    with pytest.raises(GenieError, match=r"workspace are of .* cannot be read together"):
        read_runs(clone, Selection(("workspace",)))


def test_folder_without_git_or_dvc_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(GenieError, match=r"must be in a git repository with DVC .*`dvc init`"):
        read_runs(tmp_path, Selection())


def test_a_project_without_commits_has_its_workspace(tmp_path):
    git(tmp_path, "init", "--quiet")
    Repo.init(str(tmp_path)).close()
    write_run(tmp_path, {})
    assert names(tmp_path) == ["workspace"]


def test_reference_is_found_by_any_of_its_names(repository):
    runs = read_runs(repository, Selection(("side", "main", "v1")))[0]
    assert [position(runs, name) for name in (None, "side", "v1", "main")] == [0, 0, 1, 1]
    with pytest.raises(GenieError, match=r"--reference must be one of .*side, .*got 'r0.5-s0'"):
        position(runs, "r0.5-s0")


def test_reference_that_is_not_among_the_revisions_is_added(repository):
    table = csv_of(repository, "r0.5-s2", "--reference", "rada-s2")
    assert table["row"].tolist() == ["rada-s2", "r0.5-s2"]
    assert table["pairs"].tolist() == [0, TASKS]


def from_metrics(place: Path, name: str) -> np.ndarray:
    """Accuracies with generated images, from the file of an experiment."""
    commit = git(place, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}")
    text = subprocess.check_output(
        ["git", "show", f"{commit}:metrics/tasks.csv"], cwd=place, text=True
    )
    header, *lines = (line.split(",") for line in text.splitlines())
    model, accuracy = header.index("model"), header.index("accuracy")
    return np.array([float(line[accuracy]) for line in lines if line[model] == "augmented"])


def test_five_ratios_by_five_seeds_agree_with_scipy_on_the_files(repository):
    """Means, t-intervals, paired tests and Holm's correction, over tasks and over seeds."""
    found = csv_of(repository, "--all-experiments", "--reference", "rada-s0")
    assert found["over"].value_counts().to_dict() == {"tasks": 25, "seeds": 5}
    values = {(r, s): from_metrics(repository, f"r{r}-s{s}") for r in RATIOS for s in SEEDS}
    tasks = found[found["over"] == "tasks"].set_index("row")
    check(
        {f"r{r}-s{s}": own for (r, s), own in values.items()},
        {f"r{r}-s{s}": values["ada", s] for r, s in values if r != "ada"},
        tasks,
    )
    means = {r: np.array([values[r, s].mean() for s in SEEDS]) for r in RATIOS}
    seeds = found[found["over"] == "seeds"].set_index("parameters")
    check(
        {f"noise.r={r}": own for r, own in means.items()},
        {f"noise.r={r}": means["ada"] for r in RATIOS[1:]},
        seeds,
    )
    assert (seeds["images"] == 42).all()
    assert set(seeds["seed"]) == {"0, 1, 2, 3, 4"}


def check(
    values: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray], found: pd.DataFrame
) -> None:
    assert set(found.index) == set(values)
    for name, own in values.items():
        low, high = stats.t.interval(0.95, len(own) - 1, own.mean(), stats.sem(own))
        row = found.loc[name]
        assert tuple(row[["accuracy", "low", "high"]]) == pytest.approx(
            (own.mean(), low, high), abs=1e-6
        )
        assert row["n"] == len(own)
    tests = {name: stats.ttest_rel(values[name], other) for name, other in others.items()}
    for name, test in tests.items():
        row, bounds = found.loc[name], test.confidence_interval(0.95)
        assert tuple(row[["to_reference_low", "to_reference_high"]]) == pytest.approx(
            (bounds.low, bounds.high), abs=2e-6
        )
        assert row["p"] == pytest.approx(test.pvalue)
    largest = 0.0
    for rank, name in enumerate(sorted(tests, key=lambda name: tests[name].pvalue)):
        largest = max(largest, min(1.0, tests[name].pvalue * (len(tests) - rank)))
        assert found.loc[name, "p_holm"] == pytest.approx(largest)
    assert found.loc[sorted(set(values) - set(others)), "p"].isna().all()


def test_what_differs_is_not_paired_and_the_rows_are_named(repository):
    result = compare(repository, "main", "r0.5-s1", "r0.5-s0")
    assert result.exit_code == 0
    assert (
        result.stderr
        == "Note: not paired with main, because tasks differ (seed is 1, not 0): r0.5-s1\n"
    )


@pytest.mark.parametrize("ending", ["txt", "md", "csv", "html"])
def test_out_takes_its_format_from_its_ending(repository, tmp_path, ending):
    path = tmp_path / f"table.{ending}"
    assert compare(repository, "main", "r0.5-s0", "--out", path).stdout == (
        f"2 runs compared in {path}\n"
    )
    style = {"txt": "terminal", "md": "markdown"}.get(ending, ending)
    printed = compare(repository, "main", "r0.5-s0", "--format", style).stdout
    assert path.read_text() == printed


def test_an_ending_that_is_not_known_is_an_error(repository, tmp_path):
    result = compare(repository, "main", "--out", tmp_path / "table.xlsx")
    assert result.exit_code == 1
    assert "--out must end in .txt, .md, .csv, .html, got" in result.stderr
