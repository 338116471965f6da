from dataclasses import replace

import pytest

from genie.plan.levels import denoising_steps
from genie.plan.requests import Request
from genie.render.model import load_generator
from genie.render.model_info import GENERIC
from tests.genie.render.engines import rendered

BRIEF = {"steps": 10, "batch_size": 2}
REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "blurry", 0.7, 0, 0, "")


def test_other_pipelines_render_from_their_folder(other, source_images):
    assert other.info.family == GENERIC
    assert not other.info.starts_anywhere
    assert other.denoiser is None
    assert other.info.size == 32
    first, second = list(source_images)[:2]
    requests = [
        replace(REQUEST, source_id=first, r=0.3),
        replace(REQUEST, source_id=second, r=0.3),
        replace(REQUEST, source_id=first),
        replace(REQUEST, source_id=first, replicate=1),
        replace(REQUEST, source_id=None, source_label=None, r=1.0),
    ]
    images = rendered(requests, other, source_images, **BRIEF)
    assert all(image.size == (32, 32) for image in images.values())
    assert len({image.tobytes() for image in images.values()}) == len(requests)
    alone = rendered(requests[:1], other, source_images, **BRIEF)
    assert alone[requests[0]].tobytes() == images[requests[0]].tobytes()


@pytest.mark.parametrize("steps", [2, 4, 8, 10])
@pytest.mark.parametrize("r", [0.1, 0.3, 0.58, 0.7, 1.0])
def test_other_pipelines_denoise_exactly_k_steps(other, steps, r, source_images, inputs_of):
    pipeline = other.pipeline
    denoiser = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    request = replace(REQUEST, source_id=next(iter(source_images)), r=r)
    with inputs_of(denoiser) as calls:
        rendered([request], other, source_images, batch_size=1, steps=steps)
    assert len(calls) == denoising_steps(r, steps)


@pytest.fixture(scope="module")
def lcm(tiny_lcm_folder):
    return load_generator(tiny_lcm_folder, device="cpu")


@pytest.mark.parametrize("r", [0.25, 0.5, 0.75, 1.0])
def test_consistency_model_starts_at_r(lcm, r, source_images, monkeypatch):
    forward, seen = lcm.pipeline.unet.forward, []
    monkeypatch.setattr(
        lcm.pipeline.unet,
        "forward",
        lambda latents, t, **k: seen.append(int(t)) or forward(latents, t, **k),
    )
    request = replace(REQUEST, source_id=next(iter(source_images)), r=r)
    rendered([request], lcm, source_images, batch_size=1, steps=8)
    assert seen[0] == pytest.approx(1000 * r, abs=20)
    assert seen == sorted(seen, reverse=True)
