from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageClassification

from genie.classify.backbone import (
    BATCH,
    VECTORS_VERSION,
    class_names,
    classify,
    embed,
    load_backbone,
    load_oracle,
    load_untrained,
)
from genie.core.errors import FailedError, MissingFileError

BACKBONE, ORACLE = Path("zoo/backbone"), Path("zoo/oracle")


def noise(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]


def batch(images: list[Image.Image]) -> torch.Tensor:
    stack = np.stack([np.asarray(i, np.float32) / 127.5 - 1 for i in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2)


def test_embeddings_are_the_pooled_features_of_unit_length(backbone):
    images = noise(5)
    theirs = AutoModel.from_pretrained(BACKBONE, dtype=torch.float32)(batch(images)).pooler_output
    theirs = torch.nn.functional.normalize(theirs.flatten(1)).detach().numpy()
    ours = embed(images, model=backbone)
    assert np.allclose(ours, theirs, atol=1e-5)
    assert np.linalg.norm(ours, axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def test_oracle_gives_the_softmax_of_its_logits():
    images = noise(3)
    network = AutoModelForImageClassification.from_pretrained(ORACLE, dtype=torch.float32)
    theirs = network(batch(images)).logits.softmax(1).detach().numpy()
    oracle = load_oracle(ORACLE, device="cpu")
    assert np.allclose(classify(images, model=oracle), theirs, atol=1e-5)
    assert "ankle boot" in class_names(oracle)


def test_vector_is_bitwise_the_same_in_any_batch(backbone):
    images = noise(BATCH + 9)
    together = embed(images, model=backbone)
    assert (embed(images[BATCH:], model=backbone) == together[BATCH:]).all()
    assert (embed(images[3:4], model=backbone) == together[3:4]).all()
    assert (embed(images[::-1], model=backbone)[::-1] == together).all()


def test_each_image_goes_through_the_model_once(tmp_path, monkeypatch):
    model = load_backbone(BACKBONE, device="cpu", cache=tmp_path / "features.sqlite")
    calls = []
    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda x: (calls.append(len(x)), forward(x))[1])
    images = noise(6)
    first = embed([*images, images[0]], model=model)
    assert len(calls) == 1
    again = load_backbone(BACKBONE, device="cpu", cache=tmp_path / "features.sqlite")
    monkeypatch.setattr(again.model, "forward", forward)
    assert (embed(images, model=again) == first[:6]).all()
    assert (first[6] == first[0]).all()
    assert len(calls) == 1
    embed(noise(7), model=model)
    assert len(calls) == 2


def test_another_model_has_vectors_of_its_own(tmp_path):
    cache = tmp_path / "features.sqlite"
    images = noise(2)
    embedded = embed(images, model=load_backbone(BACKBONE, cache=cache))
    oracle = load_oracle(ORACLE, cache=cache)
    assert classify(images, model=oracle).shape != embedded.shape
    assert classify(images, model=oracle).sum(1) == pytest.approx(np.ones(2), abs=1e-5)


def test_untrained_network_has_the_architecture_and_other_weights(backbone):
    torch.manual_seed(1)
    fresh = load_untrained(BACKBONE, device="cpu")
    shapes = {k: v.shape for k, v in backbone.model.state_dict().items()}
    assert {k: v.shape for k, v in fresh.model.state_dict().items()} == shapes
    assert not np.allclose(embed(noise(1), model=fresh), embed(noise(1), model=backbone))


def test_no_images_have_no_vectors(backbone):
    assert len(embed([], model=backbone)) == 0


def test_missing_folder_and_missing_weights_are_named(tmp_path):
    with pytest.raises(
        MissingFileError, match=r"embedder must be a model folder.*nowhere does not exist"
    ):
        load_backbone(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingFileError, match=r"oracle must be .* has no \*\.safetensors"):
        load_oracle(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(MissingFileError, match=r"embedder must be .* has no config\.json"):
        load_untrained(tmp_path)


@pytest.mark.parametrize("config", ["{}", "no JSON", '{"model_type": "nonsense"}'])
def test_folder_that_transformers_cannot_load_is_named(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(FailedError, match="oracle must load as a transformers model, but"):
        load_oracle(tmp_path)


def test_untrained_clip_is_its_vision_tower():
    fresh = load_untrained(Path("zoo/clip"), device="cpu")
    trained = load_backbone(Path("zoo/clip"), device="cpu")
    assert embed(noise(2), model=fresh).shape == embed(noise(2), model=trained).shape


@pytest.mark.parametrize("change", ["version", "device"])
def test_vectors_of_other_code_or_another_device_are_not_used(tmp_path, monkeypatch, change):
    model = load_backbone(BACKBONE, device="cpu", cache=tmp_path / "features.sqlite")
    first = embed(noise(2), model=model)
    if change == "version":
        monkeypatch.setattr("genie.classify.backbone.VECTORS_VERSION", VECTORS_VERSION + 1)
    else:
        model = replace(model, device="cpu:0")
    forward, calls = model.model.forward, []
    monkeypatch.setattr(model.model, "forward", lambda x: (calls.append(len(x)), forward(x))[1])
    assert (embed(noise(2), model=model) == first).all()
    assert len(calls) == 1


def test_vectors_of_a_fixed_image_belong_to_their_version(backbone):
    """If this fails for a good reason, increase VECTORS_VERSION and renew the numbers."""
    ramp = np.add.outer(np.arange(48), np.arange(40)).astype(np.uint8)
    image = Image.fromarray(np.stack([2 * ramp, 255 - ramp, ramp], 2))
    oracle = load_oracle(ORACLE, device="cpu")
    found = [*embed([image], model=backbone)[0][:4], *classify([image], model=oracle)[0][:2]]
    assert VECTORS_VERSION == 1
    assert found == pytest.approx([0.0, 0.114556, 0.0, 0.068751, 0.006534, 0.01936], abs=2e-4)
