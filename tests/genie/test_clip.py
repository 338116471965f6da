from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel

from genie.classifiers import Examples, TrainingSettings, fit, predict_proba
from genie.clip import embed_images, embed_texts, load_clip, zero_shot
from genie.errors import GenieError
from genie.prompts import prompt_for

FOLDER = Path("zoo/clip")
TEXTS = ["a photo of a bag", "coat", "a photo of a shirt, a type of top"]


def pictures(count: int = 5) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]


def test_similarities_are_those_of_transformers_own_forward():
    clip = load_clip(FOLDER, parameter="filter.clip")
    ours = embed_images(pictures(), clip) @ embed_texts(TEXTS, clip).T
    model = CLIPModel.from_pretrained(FOLDER, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(FOLDER)(TEXTS, padding=True, return_tensors="pt")
    stack = np.stack([np.asarray(i) for i in pictures()])
    pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        theirs = model(pixel_values=pixels, **tokens).logits_per_image / model.logit_scale.exp()
    assert ours == pytest.approx(theirs.numpy(), abs=1e-4)


def test_zero_shot_names_the_class_of_the_nearest_prompt():
    clip = load_clip(FOLDER, parameter="filter.clip")
    prompts = {"x": TEXTS[0], "y": TEXTS[1]}
    similarity = embed_images(pictures(), clip) @ embed_texts(list(prompts.values()), clip).T
    expected = ["xy"[int(row[1] > row[0])] for row in similarity]
    assert zero_shot(pictures(), prompts, clip) == expected


def test_folder_that_is_no_clip_is_an_error():
    with pytest.raises(GenieError, match=r"filter\.clip must be a CLIP .*zoo/backbone"):
        load_clip(Path("zoo/backbone"), parameter="filter.clip")
    with pytest.raises(GenieError, match=r"filter\.clip must be a model folder"):
        load_clip(Path("nowhere"), parameter="filter.clip")


def test_head_that_starts_from_prompts_begins_as_zero_shot():
    settings = TrainingSettings(
        FOLDER,
        pretrained=True,
        steps=1,
        batch_size=2,
        learning_rate=1e-12,
        loss="cross-entropy",
        seed=0,
        prompt_of=prompt_for,
    )
    examples = Examples(pictures(), np.zeros((5, 1)), ["bag", "coat", "bag", "coat", "bag"])
    model = fit("finetune", examples, settings=settings)
    found = [model.classes[k] for k in predict_proba(model, examples, settings=settings).argmax(1)]
    clip = load_clip(FOLDER, parameter="classifier.backbone")
    prompts = {name: prompt_for(name) for name in ("bag", "coat")}
    assert found == zero_shot(examples.images, prompts, clip)
