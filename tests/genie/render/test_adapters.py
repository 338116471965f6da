"""Textual inversion: learned tokens, their names and their training."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file

from genie.core.errors import InvalidValueError
from genie.core.progress import silent
from genie.core.tables import read_images
from genie.data.images import decode_image
from genie.data.prompts import Prompts
from genie.pipeline import GeNIe
from genie.plan.augmentation import Augmentation
from genie.render.adapters import (
    InversionSettings,
    add_tokens,
    denoising_loss,
    learn_token,
    token_name,
    train_vector,
)
from genie.render.engine import LocalEngine
from genie.render.loop import Renderer
from genie.render.model import encode_images, load_generator
from genie.render.store import MemoryStore

SETTINGS = InversionSettings(
    steps=100, learning_rate=0.02, batch_size=8, template="a photo of a {class}", seed=0
)


@pytest.fixture(scope="module")
def zoo():
    return load_generator(Path("zoo/generator"))


@pytest.fixture(scope="module")
def bags() -> dict[str, bytes]:
    table = read_images(Path("data/bundled/train"))
    rows = table[table["label"] == "bag"].head(30)
    return dict(zip(rows["image_id"], rows["png"], strict=True))


def loss_on(images: list[Image.Image], name: str, generator) -> float:
    """Denoising loss over many timesteps under a prompt."""
    latents = encode_images(images, generator)
    with torch.no_grad():
        context, _ = generator.pipeline.encode_prompt(
            f"a photo of a {name}", generator.info.device, 1, do_classifier_free_guidance=False
        )
        losses = [
            denoising_loss(
                latents,
                context.expand(len(latents), -1, -1),
                generator=generator,
                draw=torch.Generator().manual_seed(k),
            ).item()
            for k in range(10)
        ]
    return float(np.mean(losses))


def test_learned_token_denoises_held_out_images_better_than_its_start(zoo, bags, tmp_path):
    ids = sorted(bags)
    shown = {i: bags[i] for i in ids[:20]}
    held_out = [decode_image(bags[i]) for i in ids[20:]]
    # from a word that the model takes for something else
    token, path = learn_token(shown, "trouser", generator=zoo, settings=SETTINGS, folder=tmp_path)
    add_tokens(zoo, {token: path})
    assert loss_on(held_out, token, zoo) < loss_on(held_out, "trouser", zoo)


def test_token_loads_in_an_untouched_pipeline(tiny_sd_folder, source_images, tmp_path):
    generator = load_generator(tiny_sd_folder)
    quick = InversionSettings(3, "a photo of a {class}", 0, learning_rate=0.01, batch_size=2)
    some = dict(list(source_images.items())[:3])
    token, path = learn_token(some, "coat", generator=generator, settings=quick, folder=tmp_path)
    stock = StableDiffusionImg2ImgPipeline.from_pretrained(tiny_sd_folder, safety_checker=None)
    before = len(stock.tokenizer)
    stock.load_textual_inversion(path, token=token)
    assert len(stock.tokenizer) == before + 1
    add_tokens(generator, {token: path})
    add_tokens(generator, {token: path})
    row = stock.text_encoder.get_input_embeddings().weight[-1]
    assert torch.equal(row, load_file(path)[token][0])
    prompt = f"a photo of a {token}"
    ours, theirs = (
        p.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)[0]
        for p in (generator.pipeline, stock)
    )
    assert torch.equal(ours, theirs)
    plain = stock.encode_prompt("a photo of a coat", "cpu", 1, do_classifier_free_guidance=False)
    assert not torch.equal(plain[0], theirs)


def test_stopped_training_gives_the_same_vector(sd, source_images, tmp_path, monkeypatch):
    latents = encode_images([decode_image(p) for p in source_images.values()], sd).clone()

    def vector(steps: int, name: str) -> torch.Tensor:
        settings = InversionSettings(steps, "a {class}", 0, learning_rate=0.01, batch_size=2)
        return train_vector(latents, "coat", generator=sd, settings=settings, saved=tmp_path / name)

    monkeypatch.setattr("genie.render.adapters.SAVE_EVERY", 4)
    straight = vector(10, "straight")
    vector(6, "stopped")  # saved at 4, killed at 6
    assert torch.equal(vector(10, "stopped"), straight)


def test_trained_token_is_not_trained_again(sd, source_images, tmp_path, monkeypatch):
    quick = InversionSettings(2, "a {class}", 0, learning_rate=0.01, batch_size=2)
    some = dict(list(source_images.items())[:2])
    first = learn_token(some, "coat", generator=sd, settings=quick, folder=tmp_path)
    monkeypatch.setattr(
        "genie.render.adapters.train_vector", lambda *a, **k: pytest.fail("trained")
    )
    assert learn_token(some, "coat", generator=sd, settings=quick, folder=tmp_path) == first


def test_token_name_depends_on_all_that_determines_the_token(sd):
    quick = InversionSettings(2, "a {class}", 0, learning_rate=0.01, batch_size=2)

    def name(images=("a", "b"), word="coat", settings=quick) -> str:
        return token_name(images, word, generator=sd, settings=settings)

    longer = InversionSettings(3, "a {class}", 0, learning_rate=0.01, batch_size=2)
    assert name() == name(("b", "a"))
    assert len({name(), name(("a",)), name(word="bag"), name(settings=longer)}) == 4


def test_tokens_have_the_names_of_version_0_1():
    generator = SimpleNamespace(
        info=SimpleNamespace(fingerprint="ab" * 32), pipeline=SimpleNamespace(dtype="torch.float32")
    )
    usual = InversionSettings(400, "a photo of a {class}", 0)
    short = InversionSettings(10, "a {class}", 3, learning_rate=0.01, batch_size=2)
    first = token_name(["b", "a"], "coat", generator=generator, settings=usual)
    second = token_name(["a"], "ankle boot", generator=generator, settings=short)
    assert (first, second) == ("<token-173066b85190a608>", "<token-7dec9e7a746bae51>")


def test_classes_of_a_task_learn_a_token_each_from_their_own_images(
    tiny_sd_folder, source_images, tmp_path
):
    generator = load_generator(tiny_sd_folder, device="cpu")
    a, b, c = list(source_images)[:3]
    rows = [(0, "coat", a), (0, "bag", b), (1, "coat", c), (2, "coat", a)]
    pipe = GeNIe(
        LocalEngine(generator),
        MemoryStore(),
        embedder=None,
        model=tiny_sd_folder,
        work=tmp_path,
        progress=silent,
    )
    settings = Augmentation(
        method="da-fusion",
        prompts=Prompts(templates=("a {class}",), names={"coat": "winter coat"}),
        inversion_steps=1,
    )
    tokens, files = pipe._learned(
        pd.DataFrame(rows, columns=["task", "label", "image_id"]),
        Renderer(pipe.engine, pipe.store, source_images),
        settings,
    )
    assert {task: sorted(names) for task, names in tokens.items()} == {
        0: ["bag", "coat"],
        1: ["coat"],
        2: ["coat"],
    }
    assert tokens[0]["coat"] == tokens[2]["coat"]  # of the same images
    assert len({token for names in tokens.values() for token in names.values()}) == 3
    assert set(tokens[0].values()) <= set(generator.pipeline.tokenizer.get_vocab())
    assert len(set(files)) == 3
    assert all(file.parent == tmp_path / "tokens" and file.is_file() for file in files)
    # the token of a class starts from the readable name of the class
    started = token_name(
        [a],
        "winter coat",
        generator=generator,
        settings=InversionSettings(1, template="a {class}", seed=0),
    )
    assert tokens[0]["coat"] == started


def test_another_family_is_refused(other, source_images, tmp_path):
    with pytest.raises(
        InvalidValueError, match="model must be of the Stable Diffusion family to learn a token"
    ) as error:
        learn_token(source_images, "coat", generator=other, settings=SETTINGS, folder=tmp_path)
    assert (error.value.argument, error.value.value) == ("model", other.info.name)
    assert "choose another method than da-fusion" in error.value.remedy


def test_small_gradients_survive_half_precision(sd, source_images, tmp_path, monkeypatch):
    """Large models have gradients below the smallest float16. Adam itself ignores their scale."""
    latents = encode_images([decode_image(p) for p in source_images.values()], sd).clone()
    half = replace(sd, pipeline=copy.deepcopy(sd.pipeline).to(torch.float16), dtype=torch.float16)
    settings = InversionSettings(6, "a {class}", 0, learning_rate=0.01, batch_size=2)

    def small(*args, **options) -> torch.Tensor:
        return denoising_loss(*args, **options) * 2**-22

    def moved(generator, name: str) -> torch.Tensor:
        saved = tmp_path / name
        start, end = (
            train_vector(
                latents,
                "coat",
                generator=generator,
                settings=replace(settings, steps=count),
                saved=saved / f"{count}",
            )
            for count in (0, 6)
        )
        return end - start

    monkeypatch.setattr("genie.render.adapters.denoising_loss", small)
    full, found = moved(sd, "full"), moved(half, "half")
    assert (found == 0).float().mean() < 0.05
    assert torch.nn.functional.cosine_similarity(full, found, dim=0) > 0.8


def test_stopped_training_in_half_precision_resumes_with_its_scale(
    sd, source_images, tmp_path, monkeypatch
):
    latents = encode_images([decode_image(p) for p in source_images.values()], sd).clone()
    half = replace(sd, pipeline=copy.deepcopy(sd.pipeline).to(torch.float16), dtype=torch.float16)

    def vector(steps: int, name: str) -> torch.Tensor:
        settings = InversionSettings(steps, "a {class}", 0, learning_rate=0.01, batch_size=2)
        return train_vector(
            latents, "coat", generator=half, settings=settings, saved=tmp_path / name
        )

    monkeypatch.setattr("genie.render.adapters.SAVE_EVERY", 2)
    straight = vector(5, "straight")
    vector(3, "stopped")
    assert torch.equal(vector(5, "stopped"), straight)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
def test_loss_follows_the_prediction_type_of_the_model(sd, predicts):
    """A denoiser that knows the answer has no loss."""
    scheduler = DPMSolverMultistepScheduler.from_config(
        sd.pipeline.scheduler.config, prediction_type=predicts
    )
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    draw = torch.Generator().manual_seed(0)
    timestep = torch.randint(len(scheduler.alphas_cumprod), (2,), generator=draw)
    noise = torch.randn(latents.shape, generator=draw)
    answer = {
        "epsilon": noise,
        "v_prediction": scheduler_velocity(latents, noise, timestep),
        "sample": latents,
    }[predicts]
    pipeline = SimpleNamespace(
        scheduler=scheduler,
        dtype=torch.float32,
        unet=lambda *args, **options: SimpleNamespace(sample=answer),
    )
    knowing = replace(sd, pipeline=pipeline)
    context = torch.zeros(2, 1, 1)
    same = torch.Generator().manual_seed(0)
    loss = denoising_loss(latents, context, generator=knowing, draw=same)
    assert loss.item() == pytest.approx(0, abs=1e-10)


def scheduler_velocity(latents, noise, timestep) -> torch.Tensor:
    """The velocity that diffusers' own scheduler names."""
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDPMScheduler(**options).get_velocity(latents, noise, timestep)


def test_different_tokens_draw_different_noise(sd, source_images, tmp_path, monkeypatch):
    seeds = []

    def train(latents, word, *, generator, settings, saved) -> torch.Tensor:
        seeds.append(settings.seed)
        return torch.zeros(32)

    monkeypatch.setattr("genie.render.adapters.train_vector", train)
    a, b = list(source_images)[:2]
    for shown, seed in (([a], 0), ([b], 0), ([a], 1), ([a], 0)):
        quick = InversionSettings(2, "a {class}", seed)
        images = {i: source_images[i] for i in shown}
        folder = tmp_path / f"{len(seeds)}"
        learn_token(images, "coat", generator=sd, settings=quick, folder=folder)
    assert len(set(seeds)) == 3
    assert seeds[0] == seeds[3]
