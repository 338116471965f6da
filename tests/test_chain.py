"""The whole chain with the real dvc, on a scratch repository with few steps and few images."""

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from genie.cli.main import main as genie
from genie.core.tables import TASKS, THUMBNAILS, TRAJECTORIES, read_images, read_table
from genie.data.images import decode_image, image_id
from genie.figures.contact_sheet import contact_rows, contact_sheet
from stages.analyse import main as analyse
from stages.evaluate import main as evaluate
from stages.generate import main as generate
from stages.retrain import main as retrain
from tests.scratch import (
    ENVIRONMENT,
    ROOT,
    call,
    commit,
    contents,
    make_scratch,
    ran,
    read_json,
    with_lock_of_another_processor,
)
from tests.tracked import flip_bit

CLASSES = ["ankle boot", "bag", "coat"]


@pytest.fixture(scope="module")
def made(photos: Path, tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch repository after its first `dvc repro`, whose results are committed.

    Tests leave its working tree as they find it.
    """
    place = tmp_path_factory.mktemp("chain") / "made"
    make_scratch(place, photos, tiny_sd_folder, {})
    call(place, "dvc", "repro")
    commit(place)
    return place


def rendering(place: Path) -> dict[str, int]:
    """What the last run of `generate` noted."""
    return read_json(place / ".genie/runs/rendering.json")


def test_metrics_tell_what_is_on_disk(made):
    summary = read_json(made / "metrics/evaluate.json")
    cost = read_json(made / "metrics/cost.json")
    members = pd.read_csv(made / "data/augmented/members.csv")
    levels = pd.read_parquet(made / "data/augmented/trajectories.parquet")
    images = list((made / "data/augmented").glob("*/*.png"))
    assert summary["gain"]["n"] == 2
    assert dict(members.groupby(["task", "label"]).size()) == {
        (task, label): 2 for task in range(2) for label in CLASSES
    }
    assert summary["images"] == cost["images"] == members["file_name"].nunique() == len(images)
    assert cost["needed"] == levels["key"].nunique() == 5 * len(images)
    assert (cost["rejected"], cost["short"]) == (0, 0)
    kept = pd.read_csv(made / ".genie/runs/generate/plots/metrics/images_kept.tsv", sep="\t")
    assert kept["images_kept"].tolist() == [len(members)]


def test_contact_sheet_shows_a_choice_for_each_class_from_the_thumbnails(made, tmp_path):
    trajectories = read_table(made / "data/augmented/trajectories.parquet", TRAJECTORIES)
    thumbnails = read_table(made / "data/thumbnails.parquet", THUMBNAILS)
    webp = dict(zip(thumbnails["key"], thumbnails["webp"], strict=True))
    assert set(webp) == set(trajectories["key"])
    tasks = read_table(made / "data/prepared/tasks.csv", TASKS)
    rows = contact_rows(
        trajectories,
        read_images(made / "data/prepared/support"),
        tasks[tasks["role"] == "support"],
        picture_of=lambda key: decode_image(webp[key]),
    )
    assert [row.target_label for row in rows] == CLASSES
    assert all(len(row.levels) == 5 for row in rows)
    contact_sheet(rows, tmp_path / "sheet.png")
    assert (made / "plots/contact_sheet.png").read_bytes() == (tmp_path / "sheet.png").read_bytes()


def test_report_shows_every_image_of_the_run_and_only_what_is_in_the_tables(made):
    html = (made / "plots/report.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)
    cards = json.loads(data)["cards"]
    members = pd.read_csv(made / "data/augmented/members.csv")
    levels = pd.read_parquet(made / "data/augmented/trajectories.parquet")
    assert len(cards) == len(members)
    assert sorted((c["task"], c["target"], c["levels"][c["chosen"]][0]) for c in cards) == sorted(
        zip(members["task"], members["label"], members["r"], strict=True)
    )
    assert sum(len(c["levels"]) for c in cards) == len(levels)
    gain = read_json(made / "metrics/evaluate.json")["gain"]["mean"]
    assert f"<title>GeNIe report: gain {100 * gain:+.1f} %</title>" in html


def test_dvc_shows_both_confusions_beside_the_other_plots(made, tmp_path):
    shown = call(made, "dvc", "plots", "show", "--json", "--out", str(tmp_path / "plots"))
    assert "Confusion of the baseline" in shown
    assert "Confusion of the augmented classifier" in shown


def test_second_repro_does_nothing(made):
    assert ran(call(made, "dvc", "repro")) == []


def test_fresh_clone_makes_the_committed_results_and_stays_clean(made, tmp_path):
    """Nothing comes from the cache, the store or an earlier run."""
    clone = tmp_path / "clone"
    call(tmp_path, "git", "clone", "--quiet", str(made), str(clone))
    assert not (clone / ".genie").exists()
    call(clone, "dvc", "repro", "--no-run-cache")
    cost = read_json(clone / "metrics/cost.json")
    assert rendering(clone)["rendered"] == cost["needed"]
    assert call(clone, "git", "status", "--porcelain") == ""
    assert contents(clone / "metrics") == contents(made / "metrics")
    assert (clone / "dvc.lock").read_bytes() == (made / "dvc.lock").read_bytes()


def test_readmes_way_back_works_where_the_lock_is_of_another_processor(made, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(made, clone, symlinks=True)
    with_lock_of_another_processor(clone)
    call(clone, "dvc", "repro")
    readme = (ROOT / "README.md").read_text()
    assert "git restore . && dvc repro" in readme
    for command in ("dvc exp run -S method=weak", "git restore .", "dvc repro", "genie gc"):
        call(clone, *command.split())
    assert contents(clone / "data/augmented") == contents(made / "data/augmented")
    assert contents(clone / "metrics") == contents(made / "metrics")


def test_an_editors_swap_file_in_a_room_changes_nothing(made):
    swap, module = made / "genie/choose/.filters.py.swp", made / "genie/choose/other.py"
    swap.write_bytes(b"b0VIM 9.0")
    with_swap = call(made, "dvc", "status")
    swap.unlink()
    module.write_text("")
    with_module = call(made, "dvc", "status")
    module.unlink()
    assert "up to date" in with_swap
    assert "genie/choose" in with_module


def test_outputs_come_back_from_the_cache(made):
    before = contents(made / "data/augmented")
    shutil.rmtree(made / "data")
    shutil.rmtree(made / "models")
    assert ran(call(made, "dvc", "repro")) == []
    assert contents(made / "data/augmented") == before


def test_experiment_with_a_known_level_reruns_generation_alone_and_renders_nothing(made):
    output = call(made, "dvc", "exp", "run", "-S", "noise.r=0.7")
    assert ran(output) == ["validate", "generate", "retrain", "evaluate", "analyse"]
    assert rendering(made)["rendered"] == 0
    assert rendering(made)["found"] == read_json(made / "metrics/cost.json")["needed"] > 0
    difference = call(made, "dvc", "metrics", "diff", "HEAD", "--md")
    assert "guided_steps_needed" in difference
    committed = json.loads(call(made, "git", "show", "HEAD:metrics/evaluate.json"))
    both = compared(made)
    assert both["pairs"].tolist() == [0, 2]  # the support and query sets are the same
    assert both["parameters"].tolist() == ["noise.r=ada", "noise.r=0.7"]
    own = read_json(made / "metrics/evaluate.json")["augmented"]["mean"]
    difference = own - committed["augmented"]["mean"]
    assert both.loc[1, "accuracy"] == pytest.approx(own)
    assert both.loc[1, "to_reference"] == pytest.approx(difference, abs=2e-6)  # of rounded means
    assert both.loc[1, "seconds"] > 0
    assert ran(call(made, "dvc", "exp", "run", "-S", "noise.r=ada")) == []
    call(made, "git", "checkout", "--quiet", "params.yaml")  # dvc writes its YAML another way
    assert call(made, "git", "status", "--porcelain") == ""


def compared(made: Path) -> pd.DataFrame:
    """What `genie compare` makes of HEAD, its experiments and the workspace."""
    printed = CliRunner().invoke(genie, ["compare", "--root", str(made), "--format", "csv"])
    assert printed.exit_code == 0, printed.output
    assert printed.stderr == ""
    return pd.read_csv(io.StringIO(printed.stdout))


def inputs_of_generation(made: Path, place: Path) -> Path:
    """A folder with what `generate` reads from other stages, and neither store nor images."""
    place.mkdir()
    for name in ("params.yaml", "models-tiny", "prompts", "zoo", "genie", "stages"):
        (place / name).symlink_to(made / name)
    for name in ("data/prepared", "data/sources", "models/baseline"):
        shutil.copytree(made / name, place / name)
    return place


def test_finer_grid_renders_only_its_new_levels(made, tmp_path, monkeypatch):
    place = inputs_of_generation(made, tmp_path / "finer")
    params = yaml.safe_load((made / "params.yaml").read_text())
    params["noise"]["M"] = 9
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(made / ".genie/store", tmp_path / ".genie/store")
    monkeypatch.chdir(place)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    arguments = ["--params", str(tmp_path / "params.yaml")]
    CliRunner().invoke(generate, arguments, catch_exceptions=False, standalone_mode=False)
    needed = read_json(place / "metrics/cost.json")["needed"]
    assert rendering(place)["found"] * 9 == needed * 5
    assert rendering(place)["rendered"] * 9 == needed * 4


def test_protocol_runs_its_rows_through_the_same_stages(made):
    protocol = {
        "title": "Tiny",
        "params": {"data.tasks": 2},
        "settings": {"logistic": {}},
        "rows": {
            "CutMix": {"method": "cutmix"},
            "Txt2Img": {"method": "txt2img"},
            "DiffCoRe-Mix": {"method": "diffcore-mix", "filter.min_text": -1.0},
            "Filtered": {"filter.rule": "classifier", "filter.attempts": 2},
            "Ada": {"noise.r": "ada"},
            "Ada, previews": {"noise.search": "preview"},
        },
        "reference": "Ada",
    }
    folder = made / "protocols/tiny"
    folder.mkdir()
    (folder / "protocol.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False))
    out = made / "tiny"
    output = call(made, sys.executable, "-m", "protocols.run", "tiny", "--out", str(out))
    assert "tiny: logistic: Ada, previews" in output
    table = pd.read_csv(out / "rows.csv").set_index("row")
    assert list(table.index) == [*protocol["rows"]]
    assert table.loc["Filtered", "rejected"] > 0
    assert table.loc["Filtered", "images"] < table.loc["Ada", "images"]
    assert table.loc["CutMix", "images"] == 0
    scores = pd.read_csv(out / "tasks.csv")
    assert (scores.groupby("row")["task"].nunique() == 2).all()
    # by the pipeline's own run of the same parameters
    summary = read_json(made / "metrics/evaluate.json")
    accuracy = scores.groupby("row")["accuracy"].mean()
    assert accuracy["Ada"] == pytest.approx(summary["augmented"]["mean"])
    assert accuracy["Weak copies"] == pytest.approx(summary["baseline"]["mean"])
    assert table.loc["Ada, previews", "guided_steps"] < table.loc["Ada", "guided_steps"]
    assert "| Ada, previews |" in (out / "results.md").read_text()
    shutil.rmtree(folder)
    shutil.rmtree(out)


def test_set_loads_as_an_imagefolder_data_set(made, tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(made / "data/augmented"), cache_dir=str(tmp_path)
    )["train"]
    files = pd.read_csv(made / "data/augmented/metadata.csv")
    assert sorted(loaded["label"]) == sorted(files["label"])
    assert set(loaded["label"]) == set(CLASSES)


def test_shards_instead_of_files_give_the_same_tables_models_and_metrics(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    results = ("models/augmented", "metrics", "data/evaluation", "plots")
    before = {name: contents(made / name) for name in results}
    tables = {"metadata.csv", "members.csv", "trajectories.parquet"}
    files = contents(made / "data/augmented")
    params = yaml.safe_load((made / "params.yaml").read_text())
    params["augment"]["shards"] = 2
    (made / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in (generate, retrain, evaluate, analyse):
        CliRunner().invoke(stage, [], catch_exceptions=False, standalone_mode=False)
    shards = contents(made / "data/augmented")
    names = {f"images-{i:05}.parquet" for i in range(len(shards) - 4)}
    assert len(names) == (read_json(made / "metrics/cost.json")["images"] + 1) // 2
    assert set(shards) == tables | {"README.md"} | names
    assert {name: shards[name] for name in tables} == {name: files[name] for name in tables}
    assert {name: contents(made / name) for name in results} == before
    call(made, "git", "restore", ".")
    call(made, "dvc", "checkout", "--force")
    assert contents(made / "data/augmented") == files


def test_metadata_names_the_content_of_every_image(made):
    table = pd.read_csv(made / "data/augmented/metadata.csv")
    images = {row.file_name: made / "data/augmented" / row.file_name for row in table.itertuples()}
    assert {name: image_id(Image.open(path)) for name, path in images.items()} == dict(
        zip(table["file_name"], table["image_id"], strict=True)
    )
    assert set(images.values()) == set((made / "data/augmented").glob("*/*.png"))


def test_changed_image_is_put_back_by_generation(made):
    before = contents(made / "data/augmented")
    first, second = sorted((made / "data/augmented").glob("*/*.png"))[:2]
    first.chmod(0o644)
    first.write_bytes(second.read_bytes())
    assert contents(made / "data/augmented") != before
    output = call(made, "dvc", "repro")
    assert set(ran(output)) <= {"generate"}
    assert contents(made / "data/augmented") == before
    assert call(made, "git", "status", "--porcelain") == ""


def test_damage_that_dvc_does_not_see_is_healed(made):
    """Bits are flipped in the set and in the store, and the files keep their times."""
    before, draw = contents(made / "data/augmented"), random.Random(0)
    stored = sorted((made / ".genie/store").glob("*/*.png"))
    unchosen = [path for path in stored if f"{path.parent.name}/{path.name}" not in before]
    damaged = [*sorted((made / "data/augmented").glob("*/*.png"))[:2], unchosen[0]]
    for path in damaged:
        flip_bit(path, draw, keep_time=True)
    assert ran(call(made, "dvc", "repro")) == []
    said = call(made, "genie", "verify", "--repair")
    assert all(str(path.relative_to(made)) in said for path in damaged)
    assert set(ran(call(made, "dvc", "repro"))) <= {"generate"}
    assert contents(made / "data/augmented") == before
    assert "agree" in call(made, "genie", "verify")
    assert call(made, "git", "status", "--porcelain") == ""


def test_signal_to_a_stage_keeps_the_running_batch(made, tmp_path):
    place = inputs_of_generation(made, tmp_path / "stopped")
    environment = {k: v for k, v in (os.environ | ENVIRONMENT).items() if k != "DVC_ROOT"}
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages.generate"],
        cwd=place,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    store = place / ".genie/store"
    while not list(store.glob("*/*.png")):
        time.sleep(0.01)
    stage.send_signal(signal.SIGTERM)
    _, said = stage.communicate()
    kept = len(list(store.glob("*/*.png")))
    assert stage.returncode == 128 + signal.SIGTERM, said
    assert "Stopping after the current batch" in said
    assert kept % 4 == 0  # the size of a batch
    assert 0 < kept < read_json(made / "metrics/cost.json")["needed"]
    assert not list(store.glob("*/.*.tmp"))


KILLED = """
import itertools, os, runpy, signal, sys

moved = itertools.count(1)

def watch(event, arguments):  # Python raises an audit event for every file that is moved in place
    if event == "os.rename" and ".genie/store" in str(arguments[1]) and next(moved) == 9:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
sys.argv = ["generate"]
runpy.run_module("stages.generate", run_name="__main__")
"""


def test_killed_generation_resumes_to_the_same_bytes(made, tmp_path, monkeypatch):
    place = inputs_of_generation(made, tmp_path / "killed")
    environment = {k: v for k, v in (os.environ | ENVIRONMENT).items() if k != "DVC_ROOT"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    kept = len(list((place / ".genie/store").rglob("*.png")))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    monkeypatch.chdir(place)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    CliRunner().invoke(generate, [], catch_exceptions=False, standalone_mode=False)
    cost = read_json(place / "metrics/cost.json")
    assert 0 < kept < cost["needed"]
    assert rendering(place)["found"] == kept
    assert rendering(place)["rendered"] == cost["needed"] - kept
    assert cost == read_json(made / "metrics/cost.json")
    assert contents(place / "data/augmented") == contents(made / "data/augmented")
