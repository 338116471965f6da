"""The simulation of many GPUs, on costs whose result is known."""

from dataclasses import replace

import pytest

from benchmarks.scaling import Costs, driver_seconds, simulate

FREE = Costs(
    png_bytes=0, write_seconds=0, hand_seconds=0, locks_seconds=0, image_seconds=2.0, batch=8,
    start_seconds=0, model_bytes=0, gpus_per_node=8, bandwidth=1e9, store_bytes=1e9,
    preemptions=0, replaced_seconds=60, put_seconds=0, gpu_price=1, driver_price=0, put_price=0,
    at_once=1_000,
)  # fmt: skip


def test_one_gpu_takes_the_sum_of_all_images_and_starts():
    costs = replace(FREE, start_seconds=30, locks_seconds=4, model_bytes=5e9)
    found = simulate(2_000, 1, costs)
    assert found.seconds == pytest.approx(2_000 * 2.0 + 2 * 30 + 2 * 4 + 5)
    assert (found.stored, found.rendered) == (2_000, 2_000)


@pytest.mark.parametrize("gpus", [5, 25])
def test_with_a_driver_that_costs_nothing_the_speed_up_is_linear(gpus):
    alone, together = (simulate(4_000, count, FREE).seconds for count in (1, gpus))
    assert alone / together == pytest.approx(gpus)


def test_more_gpus_than_the_driver_can_serve_do_not_help():
    costs = replace(FREE, hand_seconds=0.1)
    seconds = [simulate(1_000, gpus, costs).seconds for gpus in (40, 80)]
    assert seconds == pytest.approx([100, 100], rel=0.2)


def test_no_image_is_lost_or_stored_twice_when_gpus_are_taken_away():
    found = simulate(3_000, 7, replace(FREE, preemptions=200))
    assert (found.stored, found.rendered) == (3_000, 3_000)
    assert found.gpu_busy > 3_000 * 2.0  # batches that were lost are paid for, too


def test_finished_images_never_exceed_the_cluster_s_memory():
    costs = replace(FREE, png_bytes=1e6, store_bytes=20e6, hand_seconds=1.0)
    found = simulate(500, 50, costs)
    assert found.peak_bytes <= 20e6
    assert found.stored == 500


def test_a_shared_store_costs_the_driver_what_its_writers_wait():
    costs = replace(FREE, hand_seconds=0.001, write_seconds=0.004, put_seconds=0.316)
    assert driver_seconds(costs, shared=False) == pytest.approx(0.001)
    assert driver_seconds(costs, shared=True) == pytest.approx(0.01)
