import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from genie.errors import GenieError
from genie.generate.model import dpm_solver, load_generator
from genie.generate.render import render
from genie.generate.request import Request


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
    generator = load_generator(request.getfixturevalue(folder), device="cpu")
    assert not generator.fast
    assert generator.scheduler == scheduler
    assert (generator.steps, generator.guidance_scale) == (steps, guidance_scale)


@pytest.mark.parametrize(("written", "scale"), [("0", 0.0), ("null", 7.5), ("2.5", 2.5)])
def test_guidance_scale_of_the_settings_may_be_zero_or_left_open(
    written, scale, tiny_sd_folder, tmp_path
):
    copy = shutil.copytree(tiny_sd_folder, tmp_path / "settings")
    (copy / "genie.json").write_text(f'{{"guidance_scale": {written}, "steps": null}}')
    generator = load_generator(copy, device="cpu")
    assert (generator.guidance_scale, generator.steps) == (scale, 50)


def test_fingerprint_is_of_content_not_of_path_or_settings(sd, tiny_sd_folder, tmp_path):
    copy = shutil.copytree(tiny_sd_folder, tmp_path / "elsewhere")
    (copy / "genie.json").write_text('{"guidance_scale": 3, "steps": 8, "size": 64}')
    generator = load_generator(copy, device="cpu")
    assert generator.fingerprint == sd.fingerprint
    found = (generator.name, generator.guidance_scale, generator.steps, generator.size)
    assert found == ("elsewhere", 3.0, 8, 64)
    assert (sd.guidance_scale, sd.steps, sd.size) == (7.5, 50, 32)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert load_generator(copy, device="cpu").fingerprint != sd.fingerprint


def test_half_precision_variant_is_found(tiny_sd_folder, tmp_path, source_images):
    copy = shutil.copytree(tiny_sd_folder, tmp_path / "half")
    for path in copy.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    generator = load_generator(copy, device="cpu")
    assert generator.dtype == torch.float32
    with pytest.raises(GenieError, match=r"generator\.dtype float16 needs a GPU"):
        load_generator(tiny_sd_folder, device="cpu", dtype=torch.float16)
    source = next(iter(source_images))
    request = Request(source, "cat", "dog", "a photo of a dog", "", 0.5, 0, 0, "")
    assert len(list(render([request], generator, sources=source_images, steps=4))) == 1


def test_missing_folder_names_the_remedy(tmp_path):
    with pytest.raises(GenieError, match=r"does not exist; run `genie fetch ID .*`"):
        load_generator(tmp_path / "nowhere")


def test_folder_without_index_is_an_error(tmp_path):
    with pytest.raises(GenieError, match=r"no model_index\.json; run `genie fetch"):
        load_generator(tmp_path)


def test_folder_without_safetensors_is_an_error(tiny_sd_folder, tmp_path):
    copy = Path(shutil.copytree(tiny_sd_folder, tmp_path / "pickled"))
    for path in copy.glob("*/*.safetensors"):
        os.rename(path, path.with_suffix(".bin"))
    with pytest.raises(GenieError, match=r"weights as \.safetensors, found none; run `genie fetch"):
        load_generator(copy)


def test_folder_with_one_part_missing_is_an_error(tiny_sd_folder, tmp_path):
    copy = Path(shutil.copytree(tiny_sd_folder, tmp_path / "partial"))
    shutil.rmtree(copy / "vae")
    with pytest.raises(GenieError, match="must load as an image-to-image pipeline"):
        load_generator(copy, device="cpu")


def test_broken_settings_are_an_error(tiny_sd_folder, tmp_path):
    copy = Path(shutil.copytree(tiny_sd_folder, tmp_path / "broken"))
    (copy / "genie.json").write_text("guidance: 3")
    with pytest.raises(GenieError, match=r"genie\.json must be JSON"):
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
    """Else Karras sigmas stop the fast path, and a stochastic solver draws other images."""
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
    images = [
        next(render([request], generator, sources=source_images, steps=10))[1].tobytes()
        for generator in (sd, load_generator(copy, device="cpu", compile=False))
    ]
    assert images[0] == images[1]


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
