from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.speed import Models, bundled_work, load_models, measure, noise_work, shares

RECORDED = pd.read_csv(Path(__file__).parents[2] / "benchmarks/speed-zoo.csv")


@pytest.fixture(scope="module")
def models(tiny_sd_folder: Path) -> Models:
    return load_models(tiny_sd_folder)


def test_every_contender_renders_all_levels_of_all_pairs(models):
    work = replace(noise_work(2, models.ours.info.size), steps=4)
    table = measure(work, models, repeats=1)
    assert list(table.columns) == list(RECORDED.columns)
    assert set(table["contender"]) == set(RECORDED["contender"])
    steps = table.set_index("contender")["guided_steps"]
    previews = steps.index.str.contains("previews")
    assert set(steps[~previews]) == {2 * (2 + 2 + 3 + 3 + 4)}
    assert set(steps[previews]) == {2 * (5 + 6 + 7 + 8 + 9) + 2 * 3}  # r = 0.7 takes 3 of 4
    assert (table.loc[table["contender"] == "authors' loop", "times_authors"] == 1).all()


def test_shares_of_time_and_of_the_peak_are_measured(models):
    work = replace(noise_work(1, models.ours.info.size), steps=2)
    found = shares(work, models.ours)
    assert 0 < found["share_outside_denoiser"] < 1
    assert found["matrix_product_tflops"] > 0


def test_bundled_pairs_are_of_different_classes():
    work = bundled_work(5)
    assert len(work.pairs) == 5
    assert all(pair.source_label != pair.target_label for pair in work.pairs)
    assert {pair.source_id for pair in work.pairs} <= set(work.sources)
