import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from genie.core.errors import FailedError, InvalidValueError, MissingFileError
from genie.plan.requests import Request
from genie.render.model import dpm_solver, load_generator
from genie.render.model_info import GENERIC, STABLE_DIFFUSION, RenderSettings
from tests.genie.render.engines import rendered


@pytest.mark.parametrize(
    ("folder", "scheduler", "steps", "guidance_scale"),
    [
        ("tiny_lcm_folder", "LCMScheduler", 8, 8.0),
        ("tiny_turbo_folder", "EulerDiscreteScheduler", 4, 0.0),
        ("tiny_sdxl_folder", "EulerDiscreteScheduler", 50, 7.5),
    ],
)
def test_distilled_models_keep_their_scheduler_and_get_steps_and_guidance_that_suit(
    folder, scheduler, steps, guidance_scale, request
):
    info = load_generator(request.getfixturevalue(folder), device="cpu").info
    assert info.family == GENERIC
    assert info.scheduler == scheduler
    assert (info.steps, info.guidance_scale) == (steps, guidance_scale)


def test_a_model_is_described_by_a_value(sd, tiny_sd_folder):
    info = load_generator(tiny_sd_folder, device="cpu").info
    assert info == sd.info
    assert (info.name, info.family, info.size) == ("tiny-sd", STABLE_DIFFUSION, 32)
    assert (info.precision, info.scheduler) == ("torch.float32", "DPMSolverMultistepScheduler")
    assert (info.device, info.heeds_negative, info.starts_anywhere) == ("cpu", True, True)
    assert hash(info) == hash(sd.info)


@pytest.mark.parametrize(("written", "scale"), [("0", 0.0), ("null", 7.5), ("2.5", 2.5)])
def test_guidance_scale_of_the_settings_may_be_zero_or_left_open(
    written, scale, tiny_sd_folder, tmp_path
):
    copy = shutil.copytree(tiny_sd_folder, tmp_path / "settings")
    (copy / "genie.json").write_text(f'{{"guidance_scale": {written}, "steps": null}}')
    info = load_generator(copy, device="cpu").info
    assert (info.guidance_scale, info.steps) == (scale, 50)


def test_settings_come_before_the_card_of_the_model(tiny_sd_folder, tmp_path):
    copy = shutil.copytree(tiny_sd_folder, tmp_path / "both")
    (copy / "genie.json").write_text('{"guidance_scale": 2.5, "steps": 8}')
    info = load_generator(copy, RenderSettings(steps=4, guidance_scale=0.0), device="cpu").info
    assert (info.guidance_scale, info.steps) == (0.0, 4)
    assert not info.heeds_negative


def test_fingerprint_depends_on_content_not_on_path_or_settings(sd, tiny_sd_folder, tmp_path):
    copy = shutil.copytree(tiny_sd_folder, tmp_path / "elsewhere")
    (copy / "genie.json").write_text('{"guidance_scale": 3, "steps": 8, "size": 64}')
    info = load_generator(copy, device="cpu").info
    assert info.fingerprint == sd.info.fingerprint
    assert (info.name, info.guidance_scale, info.steps, info.size) == ("elsewhere", 3.0, 8, 64)
    assert (sd.info.guidance_scale, sd.info.steps, sd.info.size) == (7.5, 50, 32)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert load_generator(copy, device="cpu").info.fingerprint != sd.info.fingerprint


def test_half_precision_variant_is_found(tiny_sd_folder, tmp_path, source_images):
    copy = shutil.copytree(tiny_sd_folder, tmp_path / "half")
    for path in copy.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    generator = load_generator(copy, device="cpu")
    assert generator.dtype == torch.float32
    with pytest.raises(InvalidValueError, match=r"dtype float16 needs a GPU.*; use bfloat16"):
        load_generator(tiny_sd_folder, RenderSettings(dtype="float16"), device="cpu")
    source = next(iter(source_images))
    request = Request(source, "cat", "dog", "a photo of a dog", "", 0.5, 0, 0, "")
    assert rendered([request], generator, source_images, steps=4)[request].size == (32, 32)


def test_missing_folder_names_the_remedy(tmp_path):
    with pytest.raises(MissingFileError, match=r"does not exist; run `genie fetch ID .*`") as error:
        load_generator(tmp_path / "nowhere")
    assert error.value.argument == "model"


def test_folder_without_index_is_an_error(tmp_path):
    with pytest.raises(MissingFileError, match=r"no model_index\.json; run `genie fetch"):
        load_generator(tmp_path)


def test_folder_without_safetensors_is_an_error(tiny_sd_folder, tmp_path):
    copy = Path(shutil.copytree(tiny_sd_folder, tmp_path / "pickled"))
    for path in copy.glob("*/*.safetensors"):
        os.rename(path, path.with_suffix(".bin"))
    message = r"weights as \.safetensors, found none in .*; run `genie fetch"
    with pytest.raises(MissingFileError, match=message):
        load_generator(copy)


def test_folder_with_one_part_missing_is_an_error(tiny_sd_folder, tmp_path):
    copy = Path(shutil.copytree(tiny_sd_folder, tmp_path / "partial"))
    shutil.rmtree(copy / "vae")
    with pytest.raises(FailedError, match="must load as an image-to-image pipeline"):
        load_generator(copy, device="cpu")


def test_broken_settings_are_an_error(tiny_sd_folder, tmp_path):
    copy = Path(shutil.copytree(tiny_sd_folder, tmp_path / "broken"))
    (copy / "genie.json").write_text("guidance: 3")
    with pytest.raises(InvalidValueError, match=r"genie\.json must be JSON"):
        load_generator(copy, device="cpu")


@pytest.mark.parametrize(
    "option",
    [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"algorithm_type": "sde-dpmsolver++"},
        {"solver_order": 3, "lower_order_final": False},
    ],
    ids=str,
)
def test_only_the_noise_schedule_is_taken_from_a_models_scheduler(
    option, sd, tiny_sd_folder, source_images, tmp_path
):
    """Else Karras sigmas stop the renderer, and a stochastic solver draws other images."""
    copy = Path(shutil.copytree(tiny_sd_folder, tmp_path / "scheduled"))
    scheduler = DPMSolverMultistepScheduler.from_pretrained(tiny_sd_folder, subfolder="scheduler")
    DPMSolverMultistepScheduler.from_config({**scheduler.config, **option}).save_pretrained(
        copy / "scheduler"
    )
    index = json.loads((copy / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DPMSolverMultistepScheduler"]
    (copy / "model_index.json").write_text(json.dumps(index))
    source = next(iter(source_images))
    request = Request(source, "cat", "dog", "a photo of a dog", "", 0.7, 0, 0, "")
    other = load_generator(copy, RenderSettings(compile=False), device="cpu")
    first, second = (
        rendered([request], generator, source_images, steps=10)[request].tobytes()
        for generator in (sd, other)
    )
    assert first == second


@pytest.mark.parametrize(
    "option",
    [
        {"beta_schedule": "linear"},
        {"beta_end": 0.02},
        {"prediction_type": "v_prediction"},
        {"num_train_timesteps": 500},
        {"rescale_betas_zero_snr": True},
    ],
    ids=str,
)
def test_the_noise_schedule_and_the_prediction_are_those_of_the_model(option):
    base = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    made = dpm_solver({**base, **option})
    expected = DPMSolverMultistepScheduler(**{**base, **option})
    assert torch.equal(made.alphas_cumprod, expected.alphas_cumprod)
    assert made.config.prediction_type == expected.config.prediction_type
    assert made.config.timestep_spacing == "linspace"
