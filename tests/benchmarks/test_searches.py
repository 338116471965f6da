from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline

from benchmarks.preview import pairs_of_set
from benchmarks.searches import WAYS, bisected, encoded_prompts, main
from genie.render.model import load_generator

RECORDED = Path(__file__).parents[2] / "benchmarks/searches.csv"


def test_ways_are_compared_with_all_levels_in_full(augmented, tiny_sd_folder):
    out = augmented / "searches.csv"
    options = {"--generator": tiny_sd_folder, "--root": augmented, "--out": out}
    arguments = [str(part) for pair in options.items() for part in pair]
    ways = ["10 steps", "4 of every level, guidance kept every second step"]
    ways += ["predicted clean latent after 3 of the full steps", "10 steps at half the size"]
    for name in ways:
        arguments += ["--way", name]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    table = pd.read_csv(out)
    assert list(table.columns) == list(pd.read_csv(RECORDED).columns)
    steps = table.set_index("way")["search_steps"]
    assert steps.to_dict() == {
        "10 steps": 5 + 6 + 7 + 8 + 9,
        "10 steps, bisected": 28,  # four of five levels
        ways[1]: 5 * 3,  # two guided steps and two halves
        ways[2]: 5 * 3,
        ways[3]: 35,
    }
    assert table["same"].between(0, 1).all()


def test_recorded_ways_are_those_that_can_be_measured():
    recorded = set(pd.read_csv(RECORDED)["way"])
    assert recorded == {*WAYS, "10 steps, bisected", "5 of every level, bisected"}


@pytest.mark.parametrize(
    ("walk", "expected"),
    [
        ([0.0, 0.1, 0.5, 0.6, 0.7], [0.0, 0.1, 0.5, 0.5, 0.5]),
        ([0.0, 0.1, 0.2, 0.6, 0.7], [0.2, 0.2, 0.2, 0.6, 0.7]),
    ],
)
def test_bisection_looks_at_the_half_with_the_larger_change(walk, expected):
    assert bisected(np.array([walk])).tolist() == [expected]


def test_prompts_are_encoded_by_the_model_that_is_asked(augmented, tiny_sd_folder, tmp_path):
    other = StableDiffusionPipeline.from_pretrained(tiny_sd_folder, safety_checker=None)
    with torch.no_grad():
        for weights in other.text_encoder.parameters():
            weights.add_(1)
    other.save_pretrained(tmp_path / "other")
    pairs = pairs_of_set(augmented)
    first, second = (
        encoded_prompts(pairs, load_generator(folder))
        for folder in (tiny_sd_folder, tmp_path / "other")
    )
    assert set(first) == set(second) == {"", "a photo of a coat"}
    assert not any(torch.equal(first[text], second[text]) for text in first)
