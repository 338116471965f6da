from collections import Counter
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from genie.plan.levels import denoising_steps
from genie.plan.requests import Request
from genie.render import batches as module
from genie.render.batches import batches, padded, widths

STEPS = 10
REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "", 0.7, 0, 0, "")

requests = st.lists(
    st.builds(
        lambda source, r, replicate: replace(REQUEST, source_id=source, r=r, replicate=replicate),
        st.sampled_from([None, *"abcdefgh"]),
        st.sampled_from([0.1, 0.3, 0.33, 0.7, 1.0]),
        st.integers(0, 2),
    ),
    unique=True,
    max_size=40,
)


@given(requests=requests, size=st.integers(1, 9), mixed=st.booleans())
def test_every_request_is_in_one_batch_of_falling_steps(requests, size, mixed):
    drawn = list(batches(requests, STEPS, size, mixed=mixed))
    assert Counter(q for batch in drawn for q in batch) == Counter(requests)
    for batch in drawn:
        steps = [denoising_steps(q.r, STEPS) for q in batch]
        assert 1 <= len(batch) <= size
        assert steps == sorted(steps, reverse=True)
        assert mixed or len(set(steps)) == 1


@given(requests=requests, size=st.integers(1, 9), mixed=st.booleans(), draw=st.randoms())
def test_order_of_the_requests_changes_no_batch(requests, size, mixed, draw):
    requests = list({(q.source_id, q.r): q for q in requests}.values())  # no ties
    shuffled = draw.sample(requests, len(requests))
    drawn = list(batches(requests, STEPS, size, mixed=mixed))
    assert list(batches(shuffled, STEPS, size, mixed=mixed)) == drawn


def test_leftovers_of_each_step_count_share_a_batch_only_where_mixed():
    requests = [replace(REQUEST, source_id=s, r=r) for r in (0.3, 0.7) for s in "abcde"]
    mixed = [[q.r for q in batch] for batch in batches(requests, STEPS, 4, mixed=True)]
    assert mixed == [[0.7] * 4, [0.3] * 4, [0.7, 0.3]]
    apart = [[q.r for q in batch] for batch in batches(requests, STEPS, 4, mixed=False)]
    assert apart == [[0.7] * 4, [0.7], [0.3] * 4, [0.3]]


def test_sources_come_a_window_at_a_time(monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 3)
    requests = [replace(REQUEST, source_id=s, r=r) for r in (0.3, 0.7) for s in "abcdefgh"]
    order = [q.source_id for batch in batches(requests, STEPS, 4, mixed=True) for q in batch]
    assert [sorted(set(order[i : i + 6])) for i in (0, 6, 12)] == [
        ["a", "b", "c"],
        ["d", "e", "f"],
        ["g", "h"],
    ]


@given(size=st.integers(1, 300), share=st.floats(0, 1))
def test_denoiser_sees_three_widths_and_little_padding(size, share):
    count = max(1, round(share * size))
    found = widths(count, size)
    allowed = [n for n in (size, size // 4, size // 16) if n]
    assert set(found) <= set(allowed)
    assert 0 <= sum(found) - count < allowed[-1]
    assert found == sorted(found, reverse=True)


def test_padding_repeats_the_last_value():
    values = torch.arange(6.0).view(2, 3)
    assert padded(values, 4).tolist() == [[0, 1, 2], [3, 4, 5], [3, 4, 5], [3, 4, 5]]
    assert torch.equal(padded(values, 2), values)
