import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genie.cli.messages import in_keys
from genie.core.errors import MissingFileError
from genie.settings import check_params, read_yaml
from protocols.execution import commit, row_inputs, run_row, run_rows, shared_support, upstream_of
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


def protocol(small: Changes, **rows: Changes) -> Protocol:
    settings = {"one": Setting({}, list(rows))}
    return Protocol("t", small, settings, rows, next(iter(rows)), {}, {})


def ran(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The stages that ran since the last call, by their closing lines."""
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    return [name for name in names if name in ALL]


def test_early_stages_run_again_only_where_what_they_read_changes(small, tmp_path, capsys):
    first, other, again, fewer = rows_of(
        protocol(
            small,
            A={"method": "none"},
            B={"method": "strong", "sources.strategy": "random"},
            C={"method": "none"},
            D={"method": "none", "data.shots": 2},
        ),
        BASE,
        tmp_path,
    )
    made = run_row(first)
    assert ran(capsys) == ALL
    run_row(other)
    assert ran(capsys) == LATE
    kept = run_row(again)  # the same parameters: read, not run
    assert ran(capsys) == []
    assert kept.facts == made.facts
    pd.testing.assert_frame_equal(kept.scores, made.scores, check_dtype=False)
    run_row(fewer)
    assert ran(capsys) == ALL


def test_rows_give_scores_by_task_and_facts_and_the_baseline_once(small, tmp_path):
    rows = {"Copies": {"method": "none"}, "Half": {"noise.r": 0.5}}
    scores, facts = run_rows(rows_of(protocol(small, **rows), BASE, tmp_path))
    noted = [set(pd.read_parquet(path)["key"]) for path in tmp_path.rglob("rows/*.parquet")]
    assert sorted(map(len, noted)) == sorted(facts["images"])  # `genie gc` reads them
    assert sorted(zip(scores["row"], scores["task"], strict=True)) == [
        (row, task) for row in ("Copies", "Half", BASELINE) for task in (0, 1)
    ]
    assert scores["accuracy"].between(0, 1).all()
    copies, half = facts.set_index("row").to_dict("index").values()
    assert (copies["images"], copies["guided_steps"]) == (0, 0)
    # one image per class and task at most (tasks may share one), two of four steps each
    assert 3 <= half["images"] <= 6
    assert half["guided_steps"] == 2 * half["images"]
    assert half["mean_r"] == 0.5
    assert half["rejected"] == 0


def test_row_with_a_missing_path_stops_before_any_row_runs(tmp_path):
    rows = {"A": {}, "B": {"generator.model": "models/nowhere"}}
    invalid = rows_of(protocol({}, **rows), BASE, tmp_path)
    with pytest.raises(MissingFileError, match=r"model must be .*got '?models/nowhere") as caught:
        run_rows(invalid)
    assert in_keys(caught.value).startswith("generator.model must be an existing model folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "early", "late"),
    [
        ("genie/core/tables.py", True, False),
        ("stages/prepare.py", True, False),
        ("genie/settings.py", True, False),
        ("prompts/names.csv", True, True),
        ("prompts/captions.csv", False, True),
        ("prompts/contexts.csv", False, True),
    ],
)
def test_edited_file_runs_a_row_again_and_edited_code_the_early_stages(
    file, early, late, tmp_path, monkeypatch
):
    for name in ("genie", "stages", "prompts", "data/bundled", "zoo"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    monkeypatch.chdir(tmp_path)
    params = check_params(BASE, where="params.yaml")
    before = upstream_of(params), row_inputs(params)
    assert (upstream_of(params), row_inputs(params)) == before
    with (tmp_path / file).open("a") as edited:
        edited.write("\n")
    assert (upstream_of(params) != before[0]) == early
    assert (row_inputs(params) != before[1]) == late


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


def test_parameters_of_a_row_decide_its_key():
    def inputs(**changes: object) -> tuple[str, str]:
        (row,) = rows_of(protocol({}, A=changes), BASE, Path("work"))
        assert isinstance(row, Row)
        return upstream_of(row.params), row_inputs(row.params)

    plain = inputs()
    other_ratio = inputs(**{"noise.r": 0.7})
    assert other_ratio[0] == plain[0]
    assert other_ratio[1] != plain[1]
    assert inputs(**{"data.shots": 3})[0] != plain[0]
    # every source class asks for another number of copies
    assert inputs(**{"sources.strategy": "all"})[0] != plain[0]
    assert inputs(**{"sources.strategy": "random"})[0] == plain[0]


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
