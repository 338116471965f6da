from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file

from genie.errors import GenieError
from genie.generator import encode_images, load_generator
from genie.inversion import (
    InversionSettings,
    add_tokens,
    denoising_loss,
    learn_token,
    token_name,
    train_vector,
)
from genie.records import decode_png, read_images

SETTINGS = InversionSettings(
    steps=150, learning_rate=0.02, batch_size=8, template="a photo of a {class}", seed=0
)


@pytest.fixture(scope="module")
def zoo():
    return load_generator(Path("zoo/generator"))


@pytest.fixture(scope="module")
def bags() -> dict[str, bytes]:
    table = read_images(Path("data/bundled/train"))
    own = table[table["label"] == "bag"].head(40)
    return dict(zip(own["image_id"], own["png"], strict=True))


def loss_on(images: list[Image.Image], name: str, generator) -> float:
    """Denoising loss over many timesteps under a prompt, by a loop of its own."""
    latents = encode_images(images, generator)
    with torch.no_grad():
        context, _ = generator.pipeline.encode_prompt(
            f"a photo of a {name}", generator.device, 1, do_classifier_free_guidance=False
        )
        losses = [
            denoising_loss(
                latents,
                context.expand(len(latents), -1, -1),
                generator=generator,
                draw=torch.Generator().manual_seed(k),
            ).item()
            for k in range(30)
        ]
    return float(np.mean(losses))


def test_learned_token_denoises_held_out_images_better_than_its_start(zoo, bags, tmp_path):
    ids = sorted(bags)
    shown = {i: bags[i] for i in ids[:20]}
    held_out = [decode_png(bags[i]) for i in ids[20:]]
    # from a word that the model takes for something else
    token, path = learn_token(shown, "trouser", generator=zoo, settings=SETTINGS, folder=tmp_path)
    add_tokens(zoo, {token: path})
    assert loss_on(held_out, token, zoo) < loss_on(held_out, "trouser", zoo)


def test_token_loads_in_an_untouched_pipeline(tiny_sd_folder, source_images, tmp_path):
    generator = load_generator(tiny_sd_folder)
    quick = InversionSettings(3, 0.01, 2, "a photo of a {class}", 0)
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


def test_stopped_training_gives_the_same_vector(
    tiny_sd_folder, source_images, tmp_path, monkeypatch
):
    generator = load_generator(tiny_sd_folder)
    latents = encode_images([decode_png(p) for p in source_images.values()], generator).clone()

    def vector(steps: int, name: str) -> torch.Tensor:
        settings = InversionSettings(steps, 0.01, 2, "a {class}", 0)
        return train_vector(
            latents, "coat", generator=generator, settings=settings, saved=tmp_path / name
        )

    monkeypatch.setattr("genie.inversion.SAVE_EVERY", 4)
    straight = vector(10, "straight")
    vector(6, "stopped")  # saved at 4, killed at 6
    assert torch.equal(vector(10, "stopped"), straight)


def test_trained_token_is_not_trained_again(tiny_sd_folder, source_images, tmp_path, monkeypatch):
    generator = load_generator(tiny_sd_folder)
    quick = InversionSettings(2, 0.01, 2, "a {class}", 0)
    some = dict(list(source_images.items())[:2])
    first = learn_token(some, "coat", generator=generator, settings=quick, folder=tmp_path)
    monkeypatch.setattr("genie.inversion.train_vector", lambda *a, **k: pytest.fail("trained"))
    assert learn_token(some, "coat", generator=generator, settings=quick, folder=tmp_path) == first


def test_token_is_of_what_decides_it(tiny_sd_folder):
    generator = load_generator(tiny_sd_folder)
    quick = InversionSettings(2, 0.01, 2, "a {class}", 0)

    def name(images=("a", "b"), word="coat", settings=quick) -> str:
        return token_name(images, word, generator=generator, settings=settings)

    longer = InversionSettings(3, 0.01, 2, "a {class}", 0)
    assert name() == name(("b", "a"))
    assert len({name(), name(("a",)), name(word="bag"), name(settings=longer)}) == 4


def test_another_family_is_refused(tiny_sdxl_folder, source_images, tmp_path):
    generator = load_generator(tiny_sdxl_folder)
    with pytest.raises(GenieError, match="da-fusion needs a Stable Diffusion model"):
        learn_token(source_images, "coat", generator=generator, settings=SETTINGS, folder=tmp_path)
