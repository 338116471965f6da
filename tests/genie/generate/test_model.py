import os
import shutil
from pathlib import Path

import pytest
import torch

from genie.errors import GenieError
from genie.generate.model import load_generator
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
    request = Request(source, "cat", "dog", "a photo of a dog", "", 0.5, 0, 0)
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
