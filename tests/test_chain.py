"""The whole chain with the real dvc, on a scratch clone with a small data set and few steps."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from genie.records import image_id

ROOT = Path(__file__).parent.parent
CLASSES = ("ankle boot", "bag", "coat")


def write_images(folder: Path) -> None:
    """Six train and four test pictures for each of three classes: noise around a class's grey."""
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 4)):
        for level, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 80, (32, 32, 3)) + 60 * level
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{i}.png")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory, tiny_sd_folder: Path) -> Path:
    """A clone of the last commit with the working tree's files, small data and a tiny generator."""
    clone = tmp_path_factory.mktemp("scratch") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    (clone / "dvc.lock").unlink(missing_ok=True)
    shutil.copytree(tiny_sd_folder, clone / "models-tiny/generator")
    write_images(clone / "photos")
    (clone / ".gitignore").open("a").write("/photos/\n/models-tiny/\n")
    path = clone / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["data"] |= {"path": "photos", "tasks": 2, "shots": 3}
    params["generator"] |= {"model": "models-tiny/generator", "steps": 20, "batch_size": 4}
    params["augment"]["per_class"] = 2
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "add", "-A"], cwd=clone, check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "scratch"], cwd=clone, check=True)
    return clone


def call(scratch: Path, *command: str) -> str:
    """Output of a command in the scratch clone; a failure shows it."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "Test",
        "GIT_AUTHOR_EMAIL": "test@example.org",
        "GIT_COMMITTER_NAME": "Test",
        "GIT_COMMITTER_EMAIL": "test@example.org",
    }
    done = subprocess.run(
        command, cwd=scratch, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def tree_hash(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def made(scratch: Path) -> Path:
    """The scratch clone after its first `dvc repro`."""
    call(scratch, "dvc", "repro")
    return scratch


def test_chain_writes_metrics_and_a_contact_sheet(made):
    summary = json.loads((made / "metrics/evaluate.json").read_text())
    assert summary["gain"]["n"] == 2
    assert summary["images"] >= 2 * len(CLASSES)
    assert Image.open(made / "plots/contact_sheet.png").size[0] > 100


def test_second_repro_does_nothing(made):
    assert "Running stage" not in call(made, "dvc", "repro")


def test_outputs_come_back_from_the_cache(made):
    before = tree_hash(made / "data/augmented")
    shutil.rmtree(made / "data")
    shutil.rmtree(made / "models")
    assert "Running stage" not in call(made, "dvc", "repro")
    assert tree_hash(made / "data/augmented") == before


def test_experiment_with_a_known_level_reruns_generation_alone_and_renders_nothing(made):
    output = call(made, "dvc", "exp", "run", "-S", "noise.r=0.7")
    ran = {n for n in ("prepare", "train_baseline", "generate", "retrain", "evaluate")
           if f"Running stage '{n}'" in output}  # fmt: skip
    assert ran == {"generate", "retrain", "evaluate"}
    assert "0 rendered" in output
    back = call(made, "dvc", "exp", "run", "-S", "noise.r=ada")
    assert "Running stage 'generate'" not in back


def test_finer_grid_renders_only_its_new_levels(made):
    call(made, "dvc", "exp", "run", "-S", "noise.M=9")
    cost = json.loads((made / "metrics/cost.json").read_text())
    assert cost["found"] * 9 == cost["needed"] * 5
    assert cost["rendered"] * 9 == cost["needed"] * 4
    diff = call(made, "dvc", "metrics", "diff", "HEAD", "--md")
    assert "guided_steps_needed" in diff
    call(made, "dvc", "exp", "run", "-S", "noise.M=5")


def test_protocol_runs_its_rows_through_the_same_stages(made):
    protocol = {
        "title": "Tiny",
        "params": {"data.tasks": 2},
        "settings": {"logistic": {}},
        "rows": {
            "CutMix": {"method": "cutmix"},
            "Txt2Img": {"method": "txt2img"},
            "DiffCoRe-Mix": {"method": "diffcore-mix", "filter.least_text": -1.0},
            "Filtered": {"filter.rule": "classifier", "filter.attempts": 2},
            "Ada": {"noise.r": "ada"},
            "Ada, previews": {"noise.search": "preview"},
        },
        "reference": "Ada",
    }
    folder = made / "protocols/tiny"
    folder.mkdir()
    (folder / "protocol.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False))
    output = call(made, sys.executable, "-m", "protocols.run", "protocols/tiny")
    assert "[6 of 6] logistic: Ada, previews" in output
    table = pd.read_csv(folder / "results.csv").set_index("row")
    assert list(table.index) == ["Weak", *protocol["rows"]]
    assert table.loc["Filtered", "rejected"] > 0
    assert table.loc["Filtered", "images"] < table.loc["Ada", "images"]
    assert (table["n"] == 2).all()
    assert table.loc["CutMix", "images"] == 0
    # by the pipeline's own run of the same parameters
    summary = json.loads((made / "metrics/evaluate.json").read_text())
    assert table.loc["Ada", "accuracy"] == pytest.approx(summary["augmented"]["mean"])
    assert table.loc["Ada, previews", "guided_steps"] < table.loc["Ada", "guided_steps"]
    assert "| Ada, previews |" in (folder / "results.md").read_text()
    shutil.rmtree(folder)


def test_set_loads_as_an_imagefolder_data_set(made):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(made / "data/augmented"), cache_dir=str(made / ".genie/hf")
    )["train"]
    assert set(loaded["label"]) == set(CLASSES)


def test_metadata_names_the_content_of_every_image(made):
    table = pd.read_csv(made / "data/augmented/metadata.csv")
    for row in table.itertuples():
        picture = Image.open(made / "data/augmented" / row.file_name)
        assert row.image_id == image_id(picture)


def test_changed_image_is_put_back_by_generation(made, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    first, second = sorted((copy / "data/augmented").glob("*/*.png"))[:2]
    before = tree_hash(copy / "data/augmented")
    first.chmod(0o644)
    first.write_bytes(second.read_bytes())
    assert tree_hash(copy / "data/augmented") != before
    call(copy, "dvc", "repro")
    assert tree_hash(copy / "data/augmented") == before


def test_killed_generation_resumes_to_the_same_bytes(made, tmp_path):
    command = [sys.executable, "-m", "stages.generate", "--root", "."]

    def workplace(name: str) -> Path:
        copy = tmp_path / name
        shutil.copytree(made, copy, ignore=shutil.ignore_patterns("store", ".git", ".dvc"))
        shutil.rmtree(copy / "data/augmented")
        return copy

    environment = {k: v for k, v in os.environ.items() if k != "DVC_ROOT"}
    calm, disturbed = workplace("calm"), workplace("disturbed")
    subprocess.run(command, cwd=calm, check=True, env=environment)
    process = subprocess.Popen(command, cwd=disturbed, env=environment)
    store = disturbed / ".genie/store"
    while process.poll() is None and len(list(store.rglob("*.png"))) < 4:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(store.rglob("*.png")))
    subprocess.run(command, cwd=disturbed, check=True, env=environment)
    cost = json.loads((disturbed / "metrics/cost.json").read_text())
    assert cost["found"] == kept >= 4
    assert cost["rendered"] == cost["needed"] - kept
    assert tree_hash(disturbed / "data/augmented") == tree_hash(calm / "data/augmented")


def test_no_stage_between_prepare_and_evaluate_opens_the_query_images(made):
    """Python's audit events name every file that a stage opens."""
    program = (
        "import sys\n"
        "opened = []\n"
        "sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == 'open' else None)\n"
        "import pyarrow.parquet, runpy, pandas\n"
        "read = pandas.read_parquet\n"
        "pandas.read_parquet = lambda path, *a, **k: (opened.append(str(path)), read(path))[1]\n"
        "name = sys.argv.pop(1)\n"
        "try:\n"
        "    runpy.run_module(f'stages.{name}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "print(*[o for o in opened if 'prepared' in o], sep='\\n')\n"
    )
    for name in ("train_baseline", "select_sources", "generate", "retrain"):
        done = subprocess.run(
            [sys.executable, "-c", program, name], cwd=made, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        assert "prepared/query" not in done.stdout
        assert name == "select_sources" or "prepared" in done.stdout
