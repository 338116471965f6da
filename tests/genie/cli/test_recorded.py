"""Results and parameters in a small pipeline of the real DVC, against `dvc status`."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from genie.cli.dvc_cache import listed
from genie.cli.recorded import RESULTS, mismatch
from tests.scratch import call

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # of dvc's

SCRIPT = """\
import json, sys, yaml
from pathlib import Path
stage, params = sys.argv[1], yaml.safe_load(open("params.yaml"))
if stage == "prepare":
    Path("support").write_text(str(params["data"]))
if stage == "generate":
    Path("set").mkdir(exist_ok=True)
    Path("set/members.csv").write_text(Path("support").read_text() + str(params["noise"]))
    Path("thumbnails").write_text(str(params["noise"]["low"]))
    Path("metrics/cost.json").write_text("{}")
if stage == "evaluate":
    text = Path("set/members.csv").read_text() + str(params["oracle"])
    Path("metrics/tasks.csv").write_text(text)
    Path("metrics/evaluate.json").write_text(json.dumps(text))
if stage == "analyse":
    Path("report").write_text("a report")
"""


def stage(name: str, params: list[str], deps: list[str], outs: list[str]) -> dict[str, object]:
    uncached = [{out: {"cache": False}} for out in outs if out.startswith("metrics/")]
    return {
        "cmd": f"python run.py {name}",
        "params": params,
        "deps": deps,
        "outs": [out for out in outs if not out.startswith("metrics/")],
        "metrics": uncached,
    }


STAGES = {
    "prepare": stage("prepare", ["data"], [], ["support"]),
    "generate": stage(
        "generate", ["noise"], ["support"], ["set", "thumbnails", "metrics/cost.json"]
    ),
    "evaluate": stage("evaluate", ["oracle"], ["set/members.csv"], [*RESULTS[:2]]),
    "analyse": stage(
        "analyse", [], ["set/members.csv", "thumbnails", "metrics/evaluate.json"], ["report"]
    ),
}
PARAMS = "data: photos\nnoise: {r: 0.8, low: 1e-3}\noracle: zoo\nunused: 1\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that has run."""
    place = tmp_path_factory.mktemp("made")
    call(place, "git", "init", "--quiet")
    Repo.init(str(place)).close()
    (place / "metrics").mkdir()
    (place / "run.py").write_text(SCRIPT)
    (place / "params.yaml").write_text(PARAMS)
    (place / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    call(place, "dvc", "repro", "--quiet")
    return place


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the current folder."""
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def reproduce(*targets: str, **options: bool) -> None:
    with Repo() as repo:
        repo.reproduce(list(targets) or None, **options)


def change(old: str, new: str) -> None:
    text = Path("params.yaml").read_text()
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new))


def found(*, cache: bool = True) -> str | None:
    """What `mismatch` says of the folder, with or without DVC's cache."""
    results = {name: Path(name).read_bytes() for name in RESULTS}
    lock, params = Path("dvc.lock").read_text(), Path("params.yaml").read_text()
    place = Path(".dvc/cache/files/md5") if cache else Path("nowhere")
    return mismatch(lock, params, results, lambda name: listed(place, name))


def dvc_says_it_is_current() -> bool:
    with Repo() as repo:
        return not repo.status(["evaluate"], with_deps=True)


@pytest.mark.parametrize(
    ("steps", "stage", "why"),
    [
        ([], None, ""),
        ([("unused: 1", "unused: 2")], None, ""),
        ([("1e-3", "0.001")], None, ""),
        ([("photos", "others")], "prepare", "data 'photos', params.yaml has 'others'"),
        ([("0.8", "0.7")], "generate", "noise.r 0.8, params.yaml has 0.7"),
        ([("r: 0.8, ", "")], "generate", "noise.r 0.8, params.yaml has none"),
        ([("oracle: zoo", "oracle: null")], "evaluate", "oracle 'zoo', params.yaml has None"),
        ([("photos", "others"), "prepare"], "generate", "another support than stage prepare made"),
        ([("0.8", "0.7"), "generate"], "evaluate", "another set/members.csv than stage generate"),
        ([("0.8", "0.7"), "generate", "evaluate"], None, ""),
        ([("0.8", "0.7"), "generate", "evaluate", ("0.7", "0.8")], "generate", "noise.r 0.7"),
        ([("1e-3", "2e-3"), "generate", ("2e-3", "1e-3"), "generate"], None, ""),
    ],
)
def test_result_belongs_to_the_parameters_that_were_recorded(project, steps, stage, why):
    for step in steps:
        if isinstance(step, tuple):
            change(*step)
        else:
            reproduce(step, single_item=True)
    reason = found()
    assert (reason is None) == dvc_says_it_is_current() == (stage is None)
    if stage:
        assert reason.startswith(f"stage {stage} ran with {why}")


def test_without_the_cache_what_another_stage_read_tells_which_set_was_used(project):
    assert found(cache=False) is None
    change("1e-3", "2e-3")
    reproduce("generate", single_item=True)
    assert found(cache=False).startswith(
        "stage evaluate ran with set/members.csv of an unknown run of stage generate"
    )
    reproduce()
    assert found(cache=False) is None


@pytest.mark.parametrize("name", RESULTS)
def test_metrics_that_no_recorded_run_made_are_no_result(project, name):
    Path(name).write_text("edited")
    maker = "generate" if name.endswith("cost.json") else "evaluate"
    assert found() == f"stage {maker} made another {name}"


def test_metrics_with_line_ends_of_windows_are_the_same_result(project):
    lines = json.dumps({"images": 1}, indent=1) + "\n"
    Path("run.py").write_text(SCRIPT.replace("json.dumps(text)", f"{lines!r}"))
    reproduce("evaluate", force=True, single_item=True)
    assert found() is None
    Path("metrics/evaluate.json").write_bytes(lines.replace("\n", "\r\n").encode())
    assert found() is None
