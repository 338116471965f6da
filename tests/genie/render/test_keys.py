"""Keys of images: what enters them, and their values in stores of earlier versions."""

from dataclasses import replace

import pytest

from genie.plan.requests import Request
from genie.render.keys import request_key
from genie.render.model import load_generator
from genie.render.model_info import GENERIC, STABLE_DIFFUSION, ModelInfo, RenderSettings

REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "blurry", 0.7, 0, 0, "")
DRAWN = Request(None, None, "T-shirt/top", "ein Foto: Käse", "", 1.0, 3, 7, "0123456789abcdef")
SD = ModelInfo(
    name="m",
    fingerprint="ab" * 32,
    family=STABLE_DIFFUSION,
    size=32,
    steps=20,
    guidance_scale=3.0,
    batch_size=32,
    precision="torch.float32",
    scheduler="DPMSolverMultistepScheduler",
    device="cpu",
    heeds_negative=True,
)
LCM = ModelInfo(
    name="m",
    fingerprint="cd" * 32,
    family=GENERIC,
    size=64,
    steps=8,
    guidance_scale=1.0,
    batch_size=32,
    precision="torch.bfloat16 from torch.float32",
    scheduler="LCMScheduler",
    device="cuda",
    heeds_negative=False,
)


@pytest.mark.parametrize(
    ("info", "steps", "request_", "key"),
    [
        (SD, 20, REQUEST, "e7cbcc786965ccd04d9116eaae308a0dd03d858a0116c3229053d0b36bd94cb6"),
        (SD, 10, REQUEST, "28feec64d10210fcf3920a705776c8ac32c8976d8b835127ec3deba9152e815b"),
        (SD, 4, REQUEST, "f61a880174efc60e5b89345eff81d21a2e1699e7cb9a4f2677946f381594584b"),
        (SD, 20, DRAWN, "b01645d19a59b397287135ce35d2a36783bf731e84e586b422fdff2d3f10da2f"),
        (LCM, 8, REQUEST, "d0dd5c7eb954b734671c53e7d754ebb5fbcd90aabccb63f8f302a6a87a91de38"),
        (LCM, 4, REQUEST, "24392107d39c74c7bfa7f54a6eeb99e1ece316e2348b4ee0e4d070a8a636c405"),
        (LCM, 8, DRAWN, "4e6087e3b6529ae50d426f5b44435799b71ad99181d005456a704c24a635781d"),
    ],
)
def test_keys_are_those_of_stores_of_version_0_1(info, steps, request_, key):
    assert request_key(request_, info, steps=steps) == key


def test_key_depends_on_all_that_determines_the_pixels():
    def key(info=SD, steps=50, **changes):
        return request_key(replace(REQUEST, **changes), info, steps=steps)

    assert key() == key(r=0.7000000000000001)
    assert key() == key(source_label="another name")
    assert key() == key(noise_id="a")
    assert key() == key(info=replace(SD, guidance_scale=3))
    assert key() == key(info=replace(SD, name="another folder"))
    elsewhere = replace(SD, device="cuda", batch_size=4, steps=8, heeds_negative=False)
    assert key() == key(info=elsewhere)
    different = [
        key(source_id="b"),
        key(source_id=None),
        key(noise_id="name of the source"),
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
        key(info=replace(SD, guidance_scale=7.5)),
        key(info=replace(SD, fingerprint="0" * 64)),
        key(info=replace(SD, size=64)),
        key(info=replace(SD, scheduler="EulerDiscreteScheduler")),
        key(info=replace(SD, precision="torch.bfloat16")),
    ]
    assert len({key(), *different}) == 1 + len(different)


def test_models_that_start_at_a_step_share_keys_between_steps():
    generic = replace(SD, family=GENERIC)
    first, second = (request_key(replace(REQUEST, r=r), generic, steps=5) for r in (0.66, 0.68))
    assert first == second


def test_bfloat16_by_openvino_and_by_pytorch_have_different_keys(tiny_sd_folder):
    """Their images differ by up to 16 of 255; float32 agrees within one."""

    def key(**settings) -> str:
        info = load_generator(tiny_sd_folder, RenderSettings(**settings), device="cpu").info
        return request_key(REQUEST, info, steps=50)

    full = key()
    assert full == key(compile=True) == key(compile=False, dtype="float32")
    halves = {key(compile=compile, dtype="bfloat16") for compile in (True, False)}
    assert len({full, *halves}) == 3
