from pathlib import Path

import pytest

from genie.generator import load_generator
from genie.rendering import Speed
from stages import rendering
from stages.rendering import Rendering, forecast, in_all


@pytest.fixture
def small(tiny_sd_folder: Path, tmp_path: Path) -> Rendering:
    return Rendering(load_generator(tiny_sd_folder), 50, 3.0, 2, {}, tmp_path)


def test_short_work_is_not_measured(small, monkeypatch):
    monkeypatch.setattr(rendering, "measure_speed", None)
    line = forecast(small, needed=5, missing=3, guided=90, later=0)
    assert line == "generate: 5 images needed, 2 in the store; 3 to render in 90 guided steps"


@pytest.mark.parametrize(("minutes", "advice"), [(20, False), (45, True)])
def test_long_work_says_how_long_how_large_and_how_to_cut_it(small, monkeypatch, minutes, advice):
    monkeypatch.setattr(rendering, "measure_speed", lambda *a, **k: Speed(100.0, 2000.0))
    guided = 100 * 60 * minutes
    line = forecast(small, needed=9000, missing=4000, guided=guided - 600, later=600)
    assert f"in {guided - 600:,} guided steps, then about 600 for the chosen levels" in line
    assert f"about {minutes} min at 100 steps per second and 8 MB" in line
    assert ("noise.search=preview" in line) == advice


def test_costs_add_up_and_the_least_batch_size_stays():
    first = {"rendered": 3, "seconds": 1.5, "batch_size": 16}
    assert in_all([first, {"rendered": 4, "seconds": 1.0, "batch_size": 8}]) == {
        "rendered": 7,
        "seconds": 2.5,
        "batch_size": 8,
    }


def test_speed_is_measured_on_the_model_itself(small):
    speed = rendering.measure_speed(small.generator, guidance_scale=3.0, batch_size=2)
    assert speed.guided_steps > 0
    assert 100 < speed.image_bytes < 10_000
