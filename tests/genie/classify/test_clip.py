from pathlib import Path

import numpy as np
import pytest
import torch

from genie.classify.clip import embed_images, embed_texts, load_clip, load_image_tower, zero_shot
from genie.core.errors import FailedError, MissingFileError

TEXTS = ["a photo of a bag", "coat", "a photo of a shirt, a type of top"]


@pytest.fixture(scope="module")
def similarities(clip, pictures) -> np.ndarray:
    """Cosines of five pictures and three texts by transformers' own forward pass."""
    tokens = clip.tokenizer(TEXTS, padding=True, return_tensors="pt")
    stack = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    model = clip.vision.model
    with torch.inference_mode():
        logits = model(pixel_values=stack.float() / 127.5 - 1, **tokens).logits_per_image
        return (logits / model.logit_scale.exp()).numpy()


def test_similarities_are_those_of_transformers_own_forward(clip, pictures, similarities):
    ours = embed_images(pictures, clip) @ embed_texts(TEXTS, clip).T
    assert ours == pytest.approx(similarities, abs=1e-4)


def test_zero_shot_names_the_class_whose_prompt_transformers_scores_highest(
    clip, pictures, similarities
):
    for prompts in ({"x": 0, "y": 1}, {"x": 2, "y": 0, "z": 1}):
        predicted = zero_shot(pictures, {name: TEXTS[i] for name, i in prompts.items()}, clip)
        scores = [{name: row[i] for name, i in prompts.items()} for row in similarities]
        assert predicted == [max(own, key=own.get) for own in scores]


def test_image_tower_gives_the_image_embedding_times_the_logit_scale(clip, pictures):
    tower = load_image_tower(Path("zoo/clip"), argument="embedder", device="cpu")
    stack = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        found = tower.model(stack.float() / 127.5 - 1).pooler_output.numpy()
        scale = clip.vision.model.logit_scale.exp().item()
    assert found / scale == pytest.approx(embed_images(pictures, clip), abs=1e-5)


def test_folder_that_is_no_clip_is_an_error():
    with pytest.raises(FailedError, match=r"clip must be a CLIP .*zoo/backbone"):
        load_clip(Path("zoo/backbone"), argument="clip")
    with pytest.raises(MissingFileError, match="clip must be a model folder"):
        load_clip(Path("nowhere"), argument="clip")
