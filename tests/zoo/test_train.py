"""A training run that was stopped goes on as if it had not been."""

from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.clip_part import matching_loss
from zoo.feature_parts import contrastive_loss, random_view
from zoo.generator_parts import learn_merges, tiny_vae
from zoo.loop import schedule, train


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


def test_contrastive_loss_is_least_where_partners_agree() -> None:
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


def test_autoencoder_makes_latents_of_a_quarter_of_the_side() -> None:
    latent = tiny_vae().encode(torch.zeros(2, 3, 32, 32)).latent_dist.mode()
    assert latent.shape == (2, 4, 8, 8)


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
