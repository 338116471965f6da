"""Requests, slots, and the seed of an image's noise."""

from dataclasses import replace

from genie.plan.requests import Request, Slot, distinct, noise_seed

REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "", 0.7, 0, 0, "")


def test_noise_is_one_seed_for_all_levels_of_a_pair():
    other_level = replace(REQUEST, prompt="another prompt", r=0.3, source_label="another name")
    assert noise_seed(other_level) == noise_seed(REQUEST)


def test_noise_differs_by_seed_source_target_replicate_and_support():
    seeds = {
        noise_seed(Request(source, None, target, "", "", 0.7, replicate, seed, support_id))
        for seed in (0, 1)
        for source in (None, "", "a")
        for target in ("coat", "bag")
        for replicate in (0, 1)
        for support_id in ("one", "another")
    }
    assert len(seeds) == 2 * 3 * 2 * 2 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_name_for_the_source_keys_the_noise_in_its_place():
    named = replace(REQUEST, noise_id="shirt 12")
    assert noise_seed(named) != noise_seed(REQUEST)
    assert noise_seed(named) == noise_seed(replace(named, source_id="b"))
    assert noise_seed(named) == noise_seed(replace(REQUEST, source_id="shirt 12"))
    assert noise_seed(replace(REQUEST, noise_id="a")) == noise_seed(REQUEST)


def test_distinct_requests_come_in_order_of_first_appearance():
    first, second, third = (replace(REQUEST, r=r) for r in (0.5, 0.7, 0.9))
    slots = [Slot(0, (second, third)), Slot(1, (second, first)), Slot(0, (second, third))]
    assert distinct(slots) == [second, third, first]
    assert distinct([]) == []
