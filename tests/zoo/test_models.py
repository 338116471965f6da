"""The bundled model folders load as any other, and are small."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    CLIPTokenizer,
)

from genie.classify.clip import load_clip, zero_shot
from genie.core.tables import read_images, read_table
from genie.data.images import decode_image
from genie.data.prompts import prompt_for, read_captions
from genie.render.model import load_generator
from genie.render.model_info import STABLE_DIFFUSION, RenderSettings
from zoo.captions import captioned
from zoo.generator_parts import STEPS, known_names
from zoo.recipes import FASHION, PHOTOGRAPHS, Recipe
from zoo.sizes import SIZES, sizes

ZOO = Path(__file__).parents[2] / "zoo"
FOLDERS = ("generator", "oracle", "backbone", "clip")
CLASSES = FASHION.classes


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(ZOO / "generator" / "tokenizer")


def test_generator_edits_an_image_through_the_stock_pipeline() -> None:
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        ZOO / "generator", dtype=torch.float32, use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    edited = pipeline(
        "a photo of a bag", image=Image.new("RGB", (32, 32)), num_inference_steps=4, strength=0.6
    ).images[0]
    assert edited.size == (32, 32)


def test_generator_card_has_guidance_steps_size_and_licence() -> None:
    settings = json.loads((ZOO / "generator" / "genie.json").read_text())
    assert (settings["size"], settings["steps"]) == (32, STEPS)
    assert settings["guidance_scale"] > 1
    assert settings["license"] == "MIT"


def test_generator_card_lists_the_known_classes() -> None:
    settings = json.loads((ZOO / "generator" / "genie.json").read_text())
    assert settings["classes"] == known_names(FASHION)
    assert set(settings["classes"]) == {*CLASSES, "T-shirt", "top"}


@pytest.mark.parametrize("name", CLASSES)
def test_every_word_of_a_class_name_is_one_token(name: str, tokenizer: CLIPTokenizer) -> None:
    words = name.lower().replace("/", " / ").replace("-", " - ").split()
    assert tokenizer.tokenize(name) == [f"{word}</w>" for word in words]


@pytest.mark.parametrize("recipe", [FASHION, PHOTOGRAPHS])
def test_every_class_has_a_superclass(recipe: Recipe) -> None:
    assert set(recipe.superclass) == set(recipe.classes)


@pytest.mark.parametrize("text", ["", "zebra", "Müller 7½", "日本 😀", "\x00\x7f"])
def test_any_text_is_encoded_between_start_and_end(text: str, tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.eos_token_id not in ids[1:-1]


def test_text_encoder_knows_the_tokenizers_special_tokens(tokenizer: CLIPTokenizer) -> None:
    config = json.loads((ZOO / "generator" / "text_encoder" / "config.json").read_text())
    assert config["vocab_size"] == len(tokenizer)
    assert config["bos_token_id"] == tokenizer.bos_token_id
    assert config["eos_token_id"] == tokenizer.eos_token_id
    assert config["pad_token_id"] == tokenizer.pad_token_id


def test_configs_name_no_folder_of_the_machine_that_trained() -> None:
    for path in ZOO.rglob("config.json"):
        name = json.loads(path.read_text()).get("_name_or_path", "")
        assert not Path(name).is_absolute(), path


def test_oracle_knows_the_classes_by_name() -> None:
    oracle = AutoModelForImageClassification.from_pretrained(ZOO / "oracle")
    assert [oracle.config.id2label[i] for i in range(10)] == list(CLASSES)


def test_backbone_embeds_an_image_through_its_own_preprocessing() -> None:
    processor = AutoImageProcessor.from_pretrained(ZOO / "backbone")
    backbone = AutoModel.from_pretrained(ZOO / "backbone", dtype=torch.float32)
    pixels = processor(Image.new("RGB", (28, 28)), return_tensors="pt")
    assert backbone(**pixels).pooler_output.flatten(1).shape[0] == 1


def test_weights_are_safetensors_only_and_under_40_megabytes() -> None:
    files = [path for name in FOLDERS for path in (ZOO / name).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}
    assert sum(path.stat().st_size for path in files) < 40e6


def test_clip_tells_real_query_images_apart_by_their_prompts() -> None:
    query = read_images(ZOO.parent / "data/bundled/test").groupby("label").head(12)
    clip = load_clip(ZOO / "clip", argument="clip")
    prompts = {name: prompt_for(name) for name in CLASSES}
    predicted = zero_shot([decode_image(png) for png in query["png"]], prompts, clip)
    assert np.mean(np.array(predicted) == query["label"].to_numpy()) > 0.7


def test_every_bundled_support_image_has_a_caption() -> None:
    captions = read_captions(ZOO.parent / "prompts/captions.csv")
    support = read_images(ZOO.parent / "data/bundled/train")
    assert set(support["image_id"]) <= set(captions)
    some = support.groupby("label").head(3)
    made = captioned(some, FASHION)
    assert list(made["caption"]) == [captions[i] for i in made["image_id"]]


def test_models_of_photographs_are_the_recipe_s_and_under_16_megabytes() -> None:
    files = [path for path in (ZOO / "photographs").rglob("*") if path.is_file()]
    weights = [path for path in files if path.parent != ZOO / "photographs"]
    assert {path.suffix for path in weights} <= {".json", ".safetensors", ".txt"}
    assert sum(path.stat().st_size for path in weights) < 16e6
    settings = json.loads((ZOO / "photographs/generator/genie.json").read_text())
    assert settings["classes"] == known_names(PHOTOGRAPHS)
    assert settings["guidance_scale"] == PHOTOGRAPHS.guidance
    oracle = AutoModelForImageClassification.from_pretrained(ZOO / "photographs/oracle")
    assert [oracle.config.id2label[i] for i in range(10)] == list(PHOTOGRAPHS.classes)


def test_generator_of_photographs_is_of_stable_diffusions_family_and_predicts_velocity() -> None:
    settings = RenderSettings(compile=False)
    generator = load_generator(ZOO / "photographs/generator", settings, device="cpu")
    assert generator.info.family == STABLE_DIFFUSION
    assert generator.pipeline.scheduler.config.prediction_type == "v_prediction"
    assert generator.pipeline.vae.config.latent_channels == PHOTOGRAPHS.latent_channels


@pytest.mark.parametrize("recipe", [FASHION, PHOTOGRAPHS], ids=["fashion", "photographs"])
def test_recorded_sizes_are_those_of_the_models_that_transformers_and_diffusers_load(
    recipe: Recipe,
) -> None:
    folder = ZOO.parent / recipe.out
    recorded = read_table(folder / "sizes.csv", SIZES)
    pd.testing.assert_frame_equal(recorded, sizes(folder))
    millions = recorded.set_index("model")["million_parameters"]
    generator = load_generator(folder / "generator").pipeline
    clip = AutoModel.from_pretrained(folder / "clip")
    for name, model in [
        ("generator/unet", generator.unet),
        ("generator/vae", generator.vae),
        ("generator/text_encoder", generator.text_encoder),
        ("clip", clip),
    ]:
        assert millions[name] == pytest.approx(model.num_parameters() / 1e6, abs=0.001)
