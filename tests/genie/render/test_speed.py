"""Measured speed, and the forecast that is logged before images are rendered."""

from dataclasses import replace

import pytest

from genie.pipeline import GeNIe
from genie.render import speed
from genie.render.engine import LocalEngine
from genie.render.model_info import RenderSettings
from genie.render.speed import Speed, fastest_batch_size, forecast_line, measure_speed
from tests.genie.render.engines import REQUEST, FakeEngine, with_info


@pytest.mark.parametrize(
    ("speeds", "size"),
    [
        ({8: 10, 16: 10}, 8),
        ({8: 10, 16: 20, 32: 20.5}, 16),
        ({8: 10, 16: 20, 32: 40, 64: 80, 128: 30}, 64),
    ],
)
def test_fastest_batch_size_is_doubled_while_that_gains(sd, monkeypatch, speeds, size):
    monkeypatch.setattr(
        speed, "measure_speed", lambda engine: Speed(speeds[engine.info.batch_size], 0)
    )
    assert fastest_batch_size(sd) == size


def test_batch_size_probe_is_measured_once_the_model_is_loaded(tiny_sd_folder, monkeypatch):
    monkeypatch.setattr("genie.pipeline.fastest_batch_size", lambda generator: 64)
    settings = RenderSettings(batch_size="probe")
    pipe = GeNIe.from_pretrained(tiny_sd_folder, device="cpu", settings=settings)
    assert pipe.engine.info.batch_size == 64


def test_speed_is_measured_on_the_model_itself(sd):
    found = measure_speed(LocalEngine(with_info(sd, batch_size=2)))
    assert found.guided_steps > 0
    assert 100 < found.image_bytes < 10_000


def missing(count: int):
    """Requests that take 20 guided steps each, of 20."""
    return [replace(REQUEST, r=1.0, replicate=i) for i in range(count)]


def test_short_work_is_not_measured(monkeypatch):
    monkeypatch.setattr(speed, "measure_speed", lambda engine: pytest.fail("measured"))
    engine = FakeEngine(batch_size=2)
    line = forecast_line(engine, missing(3), needed=5, steps=20, extra_steps=0)
    assert line == "5 images needed, 2 in the store; 3 to render in 60 guided steps"


def test_workers_are_not_measured(monkeypatch):
    monkeypatch.setattr(speed, "measure_speed", lambda engine: pytest.fail("measured"))
    engine = FakeEngine(batch_size=1, at_once=50_000)
    line = forecast_line(engine, missing(4000), needed=4000, steps=20, extra_steps=7)
    assert line.endswith(
        "4000 to render in 80,000 guided steps, then about 7 for the chosen levels"
    )


@pytest.mark.parametrize(("minutes", "advice"), [(20, False), (45, True)])
def test_long_work_is_forecast_with_its_time_its_size_and_how_to_reduce_it(
    monkeypatch, minutes, advice
):
    monkeypatch.setattr(speed, "measure_speed", lambda engine: Speed(100.0, 2000.0))
    total = 100 * 60 * minutes
    engine = FakeEngine(batch_size=2)
    line = forecast_line(engine, missing(4000), needed=9000, steps=20, extra_steps=total - 80_000)
    assert "9000 images needed, 5000 in the store; 4000 to render in 80,000 guided steps" in line
    assert f", then about {total - 80_000:,} for the chosen levels" in line
    assert f"about {minutes} min at 100 steps per second and 8 MB" in line
    assert ("use `search` preview instead of exact" in line) == advice
