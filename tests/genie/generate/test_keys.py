from dataclasses import replace
from types import SimpleNamespace

import torch

from genie.generate.keys import request_key
from genie.generate.request import Request

REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "blurry", 0.7, 0, 0, "")


def test_key_is_of_what_decides_the_pixels(sd):
    def key(generator=sd, steps=50, guidance_scale=3.0, **changes):
        request = replace(REQUEST, **changes)
        return request_key(request, generator, steps=steps, guidance_scale=guidance_scale)

    assert key() == key(r=0.7000000000000001)
    assert key() == key(source_label="another name")
    assert key() == key(guidance_scale=3)
    assert key() == key(generator=replace(sd, name="another folder"))
    different = [
        key(source_id="b"),
        key(source_id=None),
        key(r=0.72),
        key(prompt="a photo of a bag"),
        key(negative_prompt=""),
        key(target_label="coat "),
        key(replicate=1),
        key(seed=1),
        key(support_id="other"),
        key(r=0.66, steps=5),
        key(r=0.68, steps=5),
        key(steps=100),
        key(guidance_scale=7.5),
        key(generator=replace(sd, fingerprint="0" * 64)),
        key(generator=replace(sd, size=64)),
    ]
    assert len({key(), *different}) == 1 + len(different)


def test_models_that_start_at_a_step_share_keys_between_steps(sd):
    plain = replace(sd, denoiser=None)
    first, second = (
        request_key(replace(REQUEST, r=r), plain, steps=5, guidance_scale=3.0) for r in (0.66, 0.68)
    )
    assert first == second


def test_bfloat16_by_openvino_and_by_pytorch_have_keys_of_their_own(sd):
    """Their images differ by up to 16 of 255; float32 agrees within one."""

    def key(computed: torch.dtype, stored: torch.dtype) -> str:
        pipeline = SimpleNamespace(dtype=stored, scheduler=sd.pipeline.scheduler)
        generator = replace(sd, dtype=computed, pipeline=pipeline)
        return request_key(REQUEST, generator, steps=50, guidance_scale=3.0)

    half, full = torch.bfloat16, torch.float32
    assert key(full, full) == request_key(REQUEST, sd, steps=50, guidance_scale=3.0)
    assert len({key(full, full), key(half, half), key(half, full)}) == 3
