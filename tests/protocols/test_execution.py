import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genie.cli.messages import in_keys
from genie.core.errors import MissingFileError
from genie.core.tables import TASKS, read_images, read_table
from genie.settings import check_params, read_yaml
from protocols.execution import commit, run_row, shared_support, upstream_of
from protocols.record import content, made_from, read_record
from protocols.run import update
from protocols.specification import BASELINE, Changes, Protocol, Row, Setting, rows_of
from tests.scratch import call
from tests.scratch import commit as make_commit

ROOT = Path(__file__).parents[2]
BASE = read_yaml(ROOT / "params.yaml")
CLASSES = ("ankle boot", "bag", "coat")
LATE = ["select_sources", "generate", "retrain", "evaluate"]
ALL = ["prepare", "train_baseline", *LATE]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four train and two test pictures for each of three classes: noise around a class's grey."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for level, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 80, (32, 32, 3)) + 60 * level
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture
def small(photos, tiny_sd_folder, monkeypatch) -> Changes:
    """Parameters of a row that takes seconds, with a store of its own."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return {
        "data.path": str(photos),
        "data.tasks": 2,
        "data.shots": 3,
        "augment.per_class": 1,
        "generator.model": str(tiny_sd_folder),
        "generator.steps": 4,
        "generator.compile": False,
        "classifier.head": "prototype",
    }


def protocol(small: Changes, groups: Path | None = None, **rows: Changes) -> Protocol:
    settings = {"one": Setting(groups=groups)}
    reference = next(iter(rows))
    return Protocol(title="t", params=small, settings=settings, rows=rows, reference=reference)


def ran(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The stages that ran since the last call, by their closing lines."""
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    return [name for name in names if name in ALL]


def test_early_stages_run_again_only_where_their_dependencies_change(small, tmp_path, capsys):
    first, other, fewer = rows_of(
        protocol(
            small,
            A={"method": "none"},
            B={"method": "strong", "sources.strategy": "random"},
            C={"method": "none", "data.shots": 2},
        ),
        BASE,
        tmp_path,
    )
    run_row(first)
    assert ran(capsys) == ALL
    run_row(other)
    assert ran(capsys) == LATE
    run_row(fewer)
    assert ran(capsys) == ALL


def test_rows_are_recorded_one_by_one_with_scores_and_facts(small, tmp_path, capsys):
    table = protocol(small, Copies={"method": "none"}, Half={"noise.r": 0.5})
    rows, out = rows_of(table, BASE, tmp_path / "work"), tmp_path / "record"
    update(rows[:1], out)  # as if it had been stopped after the first row
    assert list(read_record(out).facts["row"]) == ["Copies"]
    ran(capsys)
    update(rows, out)
    assert ran(capsys) == LATE  # of the second row
    record = read_record(out)
    assert list(zip(record.scores["row"], record.scores["task"], strict=True)) == [
        (row, task) for row in (BASELINE, "Copies", "Half") for task in (0, 1)
    ]
    assert record.scores["accuracy"].between(0, 1).all()
    copies, half = record.facts.to_dict("records")
    assert (copies["images"], copies["guided_steps"]) == (0, 0)
    # one image per class and task at most (tasks may share one), two of four steps each
    assert 3 <= half["images"] <= 6
    assert half["guided_steps"] == 2 * half["images"]
    assert (half["mean_r"], half["rejected"]) == (0.5, 0)
    noted = pd.read_parquet(tmp_path / "work/one/keys/Half.parquet")  # `genie gc` reads it
    assert noted["key"].nunique() == half["images"]
    before = (out / "tasks.csv").read_bytes(), (out / "rows.csv").read_bytes()
    update(rows, out)
    assert ran(capsys) == []
    other = rows_of(protocol(small, Half={"noise.r": 0.7}), BASE, tmp_path / "work")
    update([rows[0], *other], out)  # the ratio of one row has changed
    assert ran(capsys) == LATE
    assert list(read_record(out).facts["mean_r"].fillna(0)) == [0, 0.7]
    update(rows, out)
    ran(capsys)
    assert read_record(out).scores.equals(record.scores)
    (out / "tasks.csv").write_bytes(before[0])
    (out / "rows.csv").write_bytes(before[1])
    update(rows, out)
    assert ran(capsys) == []
    assert before == ((out / "tasks.csv").read_bytes(), (out / "rows.csv").read_bytes())


def test_scores_have_the_accuracy_on_each_group_of_queries(small, tmp_path):
    groups = tmp_path / "groups.csv"
    (row,) = rows_of(protocol(small, A={"method": "none"}), BASE, tmp_path / "first")
    run_row(row)
    queries = read_images(row.place / "data/prepared/query")
    part = ["left" if i % 2 else "right" for i in range(len(queries))]
    labels = pd.DataFrame({"image_id": queries["image_id"], "side": part, "all": "everything"})
    labels.to_csv(groups, index=False)
    (row,) = rows_of(protocol(small, groups, A={"method": "none"}), BASE, tmp_path / "second")
    scores, _ = run_row(row)
    assert scores["everything"].tolist() == pytest.approx(scores["accuracy"].tolist())
    tasks = read_table(row.place / "data/prepared/tasks.csv", TASKS)
    sides = tasks[tasks["role"] == "query"].merge(labels, on="image_id").groupby(["task", "side"])
    share = sides.size().unstack()
    share = share.div(share.sum(axis=1), axis=0).loc[scores["task"]].reset_index(drop=True)
    mean = share["left"] * scores["left"] + share["right"] * scores["right"]
    assert mean.tolist() == pytest.approx(scores["accuracy"].tolist(), abs=1e-5)


def test_row_with_a_missing_path_stops_before_any_row_runs(tmp_path):
    table = protocol({}, A={}, B={"generator.model": "models/nowhere"})
    with pytest.raises(MissingFileError, match=r"model must be .*got '?models/nowhere") as caught:
        update(rows_of(table, BASE, tmp_path / "work"), tmp_path / "record")
    assert in_keys(caught.value).startswith("generator.model must be an existing model folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "early", "late"),
    [
        ("genie/core/tables.py", True, False),
        ("stages/prepare.py", True, False),
        ("prompts/names.csv", True, True),
        ("prompts/captions.csv", False, True),
        ("zoo/oracle/config.json", False, True),
    ],
)
def test_edited_file_runs_a_row_again_and_edited_code_the_early_stages(
    file, early, late, tmp_path, monkeypatch
):
    for name in ("genie", "stages", "prompts", "data/bundled", "zoo"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    monkeypatch.chdir(tmp_path)
    content.cache_clear()
    row = Row("one", "A", check_params(BASE, where="params.yaml"), tmp_path)
    before = upstream_of(row), made_from(row)
    assert (upstream_of(row), made_from(row)) == before
    with (tmp_path / file).open("a") as edited:
        edited.write("\n")
    content.cache_clear()
    assert (upstream_of(row) != before[0]) == early
    assert (made_from(row) != before[1]) == late
    content.cache_clear()


def test_row_names_the_commit_and_marks_changed_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "genie").mkdir()
    (tmp_path / "genie/a.py").write_text("1\n")
    (tmp_path / "notes").write_text("1\n")
    call(tmp_path, "git", "init", "--quiet")
    make_commit(tmp_path)
    clean = commit()
    (tmp_path / "notes").write_text("2\n")
    assert commit() == clean
    (tmp_path / "genie/a.py").write_text("2\n")
    assert commit() == clean + "+"


def test_shared_support_is_the_share_of_images_over_pairs_of_tasks():
    drawn = {
        0: {"a": "123", "b": "45"},
        1: {"a": "2347", "c": "67"},
        2: {"a": "189", "b": "46"},
    }
    tasks = pd.DataFrame(
        [
            {"task": task, "role": "support", "image_id": image, "label": label}
            for task, classes in drawn.items()
            for label, images in classes.items()
            for image in images
        ]
        + [{"task": task, "role": "query", "image_id": "0", "label": "a"} for task in drawn]
    )
    sets = {t: {(c, i) for c, images in own.items() for i in images} for t, own in drawn.items()}
    shares = [len(sets[a] & sets[b]) / len(sets[a]) for a, b in permutations(sets, 2)]
    assert shared_support(tasks) == pytest.approx(sum(shares) / len(shares), abs=1e-6)
    assert shared_support(tasks[tasks["task"] == 0]) == 0
