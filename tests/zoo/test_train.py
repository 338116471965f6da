"""A training run that was stopped goes on as if it had not been."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file
from torch import Tensor, nn

from genie.render.model import load_generator
from genie.render.model_info import STABLE_DIFFUSION
from zoo.clip_part import matching_loss
from zoo.feature_parts import contrastive_loss, random_view
from zoo.generator_parts import (
    LATENTS,
    Denoiser,
    learn_merges,
    min_snr_weight,
    pixels,
    save_generator,
    tiny_vae,
    train_denoiser,
    word_tokenizer,
)
from zoo.loop import schedule, train
from zoo.recipes import FASHION, PHOTOGRAPHS, Recipe, Training


def linear_run(state: Path, *, stop: int | None = None) -> Tensor:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss(draw: torch.Generator) -> Tensor:
        return (model(torch.randn(8, 3, generator=draw)) - 1).square().mean()

    trained = train(model, loss, name="line", steps=12, rate=0.1, stop=stop, state=state)
    assert isinstance(trained, nn.Linear)
    return trained.weight.detach().clone()


def test_stopped_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    straight = linear_run(tmp_path / "straight")
    linear_run(tmp_path / "stopped", stop=5)
    assert torch.equal(linear_run(tmp_path / "stopped"), straight)


def test_finished_run_is_not_repeated(tmp_path: Path) -> None:
    assert torch.equal(linear_run(tmp_path), linear_run(tmp_path))


def test_rate_rises_then_falls_to_nearly_nothing() -> None:
    rates = [schedule(step, 1000) for step in range(1000)]
    assert rates.index(max(rates)) < 250
    assert rates[0] < 0.05
    assert rates[-1] < 1e-4


def test_merges_make_every_word_one_token() -> None:
    made = {"".join(pair) for pair in learn_merges(["coat", "boat", "at"])}
    assert made >= {"coat</w>", "boat</w>", "at</w>"}


def test_contrastive_loss_is_lower_where_pairs_agree() -> None:
    apart = torch.eye(4)
    agreeing = torch.cat([apart, apart])
    disagreeing = torch.cat([apart, apart.roll(1, 0)])
    assert contrastive_loss(agreeing) < contrastive_loss(disagreeing)


def test_views_stay_in_range_and_differ_with_the_draw() -> None:
    images = torch.rand(4, 1, 32, 32).expand(-1, 3, -1, -1) * 2 - 1
    first, second = (random_view(images, torch.Generator().manual_seed(i)) for i in (0, 1))
    assert first.shape == images.shape
    assert first.abs().max() <= 1
    assert not torch.equal(first, second)


@pytest.mark.parametrize("recipe", [FASHION, PHOTOGRAPHS])
def test_autoencoder_makes_latents_of_a_quarter_of_the_side(recipe: Recipe) -> None:
    latent = tiny_vae(recipe).encode(torch.zeros(2, 3, 32, 32)).latent_dist.mode()
    assert latent.shape == (2, recipe.latent_channels, 8, 8)


def test_grey_and_rgb_pixels_become_the_same_images() -> None:
    grey = torch.randint(256, (2, 32, 32), dtype=torch.uint8)
    assert torch.equal(pixels(grey), pixels(grey[..., None].expand(-1, -1, -1, 3)))
    rgb = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    rgb[0, 5, 7, 2] = 255
    assert pixels(rgb)[0, 2, 5, 7] == 1


@pytest.fixture
def photographs(tmp_path: Path) -> Recipe:
    """The recipe of photographs with random latents and four steps of the denoiser."""
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(40, PHOTOGRAPHS.latent_channels, 8, 8, generator=draw)
    tmp_path.joinpath("straight").mkdir()
    recipe = replace(PHOTOGRAPHS, unet=Training(4, 4, 1e-3), state=tmp_path / "straight")
    save_file({"latents": latents, "labels": torch.arange(40) % 10}, recipe.state / LATENTS)
    return recipe


def test_denoiser_stopped_by_a_kill_resumes_to_the_same_weights(
    photographs: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.loop.SAVE_EVERY", 2)
    straight = train_denoiser(photographs).state_dict()
    killed = replace(photographs, state=tmp_path / "killed")
    shutil.copytree(photographs.state, killed.state, ignore=shutil.ignore_patterns("unet.pt"))
    train_denoiser(killed, stop=2)  # the checkpoint that a kill in the third step leaves
    resumed = train_denoiser(killed).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())


def test_longer_run_begins_like_a_shorter_one() -> None:
    rates = [[schedule(step, steps, 0.25) for step in range(1500)] for steps in (2000, 3000)]
    assert rates[0] == rates[1]
    assert schedule(1999, 2000, 0.25) < 1e-4


def test_velocity_weights_follow_the_min_snr_formula() -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear")
    timestep = torch.arange(0, 1000, 50)
    kept = scheduler.alphas_cumprod[timestep]
    snr = kept / (1 - kept)
    # the velocity's squared error is (snr + 1) times the clean image's, whose weight is min(snr, 5)
    assert torch.allclose(min_snr_weight(scheduler, timestep) * (snr + 1), snr.clamp(max=5))


def test_trained_denoiser_loads_as_a_pipeline_that_predicts_velocity(tmp_path: Path) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(word_tokenizer(PHOTOGRAPHS), PHOTOGRAPHS)
    save_generator(tiny_vae(PHOTOGRAPHS), denoiser, PHOTOGRAPHS, tmp_path)
    generator = load_generator(tmp_path, device="cpu")
    assert generator.info.family == STABLE_DIFFUSION
    assert generator.pipeline.scheduler.config.prediction_type == "v_prediction"


def test_matching_loss_is_clips_where_every_image_has_a_class_of_its_own() -> None:
    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    rows, columns = similarity.log_softmax(1).diagonal(), similarity.log_softmax(0).diagonal()
    expected = -(rows.mean() + columns.mean()) / 2
    assert torch.isclose(matching_loss(similarity, torch.arange(6)), expected)


def test_matching_loss_shares_an_image_among_the_prompts_of_its_class() -> None:
    labels = torch.tensor([0, 0, 1])
    fitting = 50.0 * (labels[:, None] == labels[None])
    expected = (2 * torch.log(torch.tensor(2.0)) + 0) / 3
    assert torch.isclose(matching_loss(fitting, labels), expected)
