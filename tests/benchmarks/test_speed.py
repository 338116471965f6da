from dataclasses import replace

import pandas as pd

from benchmarks.bundled import RATIOS, bundled_requests
from benchmarks.speed import Work, measure, shares
from genie.render.model import load_generator

RECORDED = pd.read_csv("benchmarks/speed-zoo.csv")
WORK = Work(*bundled_requests(2 * len(RATIOS)), steps=4)


def test_every_contender_renders_all_levels_of_all_pairs(tiny_sd_folder):
    table = measure(WORK, tiny_sd_folder, repeats=1)
    assert list(table.columns) == list(RECORDED.columns)
    assert set(table["contender"]) == set(RECORDED["contender"])
    steps = table.set_index("contender")["guided_steps"]
    previews = steps.index.str.contains("previews")
    assert set(steps[~previews]) == {2 * (2 + 2 + 3 + 3 + 4)}
    assert set(steps[previews]) == {2 * (5 + 6 + 7 + 8 + 9) + 2 * 3}  # r = 0.7 takes 3 of 4
    assert (table.loc[table["contender"] == "authors' loop", "times_authors"] == 1).all()


def test_shares_of_time_and_of_the_peak_are_measured(tiny_sd_folder):
    found = shares(replace(WORK, steps=2), load_generator(tiny_sd_folder))
    assert 0 < found["share_outside_denoiser"] < 1
    assert found["matrix_product_tflops"] > 0
