import pytest

from genie.generate import speed
from genie.generate.speed import Speed, fastest_batch_size, forecast, measure_speed


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
        speed, "measure_speed", lambda *a, batch_size, **k: Speed(speeds[batch_size], 0)
    )
    assert fastest_batch_size(sd) == size


def test_speed_is_measured_on_the_model_itself(sd):
    found = measure_speed(sd, guidance_scale=3.0, batch_size=2)
    assert found.guided_steps > 0
    assert 100 < found.image_bytes < 10_000


def test_short_work_is_not_measured(sd, monkeypatch):
    monkeypatch.setattr(speed, "measure_speed", lambda *a, **k: pytest.fail("measured"))
    line = forecast(sd, guidance_scale=3.0, batch_size=2, needed=5, missing=3, guided=90, later=0)
    assert line == "5 images needed, 2 in the store; 3 to render in 90 guided steps"


@pytest.mark.parametrize(("minutes", "advice"), [(20, False), (45, True)])
def test_long_work_says_how_long_how_large_and_how_to_cut_it(sd, monkeypatch, minutes, advice):
    monkeypatch.setattr(speed, "measure_speed", lambda *a, **k: Speed(100.0, 2000.0))
    guided = 100 * 60 * minutes - 600
    line = forecast(
        sd, guidance_scale=3.0, batch_size=2, needed=9000, missing=4000, guided=guided, later=600
    )
    assert f"in {guided:,} guided steps, then about 600 for the chosen levels" in line
    assert f"about {minutes} min at 100 steps per second and 8 MB" in line
    assert ("noise.search=preview" in line) == advice
