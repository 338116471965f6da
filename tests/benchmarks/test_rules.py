from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from benchmarks import draws, rules
from benchmarks.rules import RULES, Sight, reaches, sight_of

ROOT = Path(__file__).parents[2]
SMALL = {"data.regime": "episodes", "data.shots": 2, "data.n_way": 2, "data.n_query": 1}


def sight(positions, held_out=(), predicted=()) -> Sight:
    positions = np.array(positions, float)
    return Sight(positions, positions / 2, np.array(held_out, float), np.array(predicted, bool))


@pytest.mark.parametrize(
    ("rule", "level"),
    [
        ("r = 0.8", 3),
        ("r = 0.9", 4),
        ("largest shift", 1),
        ("least 0.6", 2),
        ("least 0.8", 3),
        ("least 1", 4),  # none stands there
        ("first at 0.6", 2),
        ("least as the lowest real image", 2),
        ("least as the median real image", 3),
        ("axis to the nearest, least 0.8", 4),
        ("baseline calls it the target", 2),
    ],
)
def test_rules_choose_by_what_they_see(rule, level):
    seen = sight([0.1, 0.5, 0.7, 0.8, 0.9], [0.6, 0.75, 1.2], [True, False, True, True, True])
    assert RULES[rule](seen) == level


def test_first_good_level_counts_from_the_start_and_the_last_if_none_is():
    assert reaches(np.array([True, False, True, True]), 1) == 2
    assert reaches(np.array([True, False, False, False]), 1) == 3


def test_real_images_of_the_target_are_placed_without_themselves():
    z_source, z_targets = np.array([0.0, 0.0]), np.array([[2.0, 0.0], [1.0, 1.0]])
    levels = pd.DataFrame(
        {"embedding": [[0.0, 0.0], [1.5, 0.5]], "predicted_target": [False, True], "level": [0, 1]}
    )
    seen = sight_of(levels, z_source, z_targets)
    assert seen.positions == pytest.approx([0, 1])
    assert seen.held_out == pytest.approx([1.0, 0.5])  # (2, 0) on (1, 1), (1, 1) on (2, 0)
    single = sight_of(levels, z_source, z_targets[:1])
    assert not len(single.held_out)
    assert single.nearest == pytest.approx(single.positions)


@pytest.fixture
def params_file(tiny_sd_folder, tmp_path) -> Path:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["generator"] |= {"model": str(tiny_sd_folder), "steps": 10, "compile": False}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(params))
    return file


@pytest.fixture
def small(photos, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setattr(rules, "SETTINGS", {"small": {**SMALL, "data.tasks": 2}})
    monkeypatch.setattr(rules, "SEEDS", {"small": (1,)})
    monkeypatch.setattr(rules, "POOL", str(photos / "train"))
    monkeypatch.setattr(draws, "SETTINGS", {"1-shot, 5-way": SMALL | {"sources.strategy": "all"}})
    monkeypatch.setattr(draws, "POOL", str(photos / "train"))
    return ["--place", str(tmp_path / "place"), "--out", str(tmp_path / "table.csv")]


def test_every_rule_is_compared_with_the_paper_and_the_best_bound(
    small, params_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    arguments = [*small, "--params", str(params_file)]
    CliRunner().invoke(rules.main, arguments, catch_exceptions=False)
    table = pd.read_csv(tmp_path / "table.csv").set_index("rule")
    assert set(table.index) == set(RULES)
    assert (table["n"] == 2).all()
    assert table.loc["largest shift", ["to_paper", "moved"]].tolist() == [0, 0]
    assert table.loc["r = 0.8", "to_fixed"] == 0
    bounds = table[table.index.str.startswith("least ") & table.index.str[6:].str.match(r"\d")]
    assert bounds["to_best"].max() == 0


def test_noise_that_tasks_share_makes_fewer_images(small, params_file, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    arguments = [*small, "--params", str(params_file), "--draws", "2", "--tasks", "3"]
    CliRunner().invoke(draws.main, arguments, catch_exceptions=False)
    table = pd.read_csv(tmp_path / "table.csv")
    images = table.groupby("noise")["images"].unique().map(list)
    assert len(images["of each task"]) == len(images["one for all tasks"]) == 1
    assert images["of each task"][0] > images["one for all tasks"][0]
    assert list(table["draw"]) == [0, 1, 0, 1]
