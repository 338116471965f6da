import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ConvNextImageProcessor,
    DeiTConfig,
    DeiTForImageClassification,
    ImageGPTImageProcessor,
    LevitImageProcessor,
    MobileViTImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from genie.classify.backbone import (
    BATCH,
    VECTORS_VERSION,
    class_names,
    classify,
    embed,
    load_backbone,
    load_oracle,
    load_untrained,
    pixels,
)
from genie.core.errors import FailedError, MissingFileError
from genie.data.pictures import Pictures

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
    assert VECTORS_VERSION == 2
    assert found == pytest.approx([0.0, 0.113931, 0.0, 0.068138, 0.006534, 0.019026], abs=2e-4)


SMALL = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
SMALL_VIT = SMALL | {"image_size": 32, "patch_size": 8}


def saved(folder: Path, model: torch.nn.Module, processor: str | None = '{"size": 32}') -> Path:
    """Save a model with the text of its preprocessor config."""
    model.save_pretrained(folder)  # type: ignore[operator]
    if processor:
        (folder / "preprocessor_config.json").write_text(processor)
    return folder


def twice(folder: Path) -> np.ndarray:
    """Embed an image with two loads of a model, which must agree."""
    first, second = (embed(noise(1), model=load_backbone(folder, device="cpu")) for _ in range(2))
    assert np.array_equal(first, second)
    return first


@pytest.mark.parametrize("kind", [ViTForImageClassification, DeiTForImageClassification])
def test_missing_pooler_leaves_the_hidden_state(tmp_path, kind):
    torch.manual_seed(0)
    config = ViTConfig if kind is ViTForImageClassification else DeiTConfig
    model = kind(config(**SMALL_VIT)).eval()
    processor = '{"size": {"height": 32, "width": 32}, "do_center_crop": false}'
    folder = saved(tmp_path / "model", model, processor)
    backbone = load_backbone(folder, device="cpu")
    tower = model.vit if kind is ViTForImageClassification else model.deit
    with torch.inference_mode():
        hidden = tower(pixels(noise(1), model=backbone)).last_hidden_state.mean(1)
    expected = torch.nn.functional.normalize(hidden, dim=1).numpy()
    assert twice(folder) == pytest.approx(expected, abs=1e-6)


def test_backbone_without_pooler_in_its_class_loads(tmp_path):
    twice(saved(tmp_path, ViTModel(ViTConfig(**SMALL_VIT), add_pooling_layer=False)))


def prefixed(folder: Path) -> Path:
    """Save a ViT whose weights have the prefix of DataParallel."""
    saved(folder, ViTModel(ViTConfig(**SMALL_VIT)))
    weights = load_file(folder / "model.safetensors")
    renamed = {f"module.{name}": value for name, value in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without_a_layer(folder: Path) -> Path:
    saved(folder, ViTModel(ViTConfig(**SMALL_VIT)))
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layernorm" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def of_another_shape(folder: Path) -> Path:
    saved(folder, ViTModel(ViTConfig(**SMALL_VIT | {"image_size": 64})))
    ViTConfig(**SMALL_VIT).save_pretrained(folder)
    return folder


def autoencoder(folder: Path) -> Path:
    decoder = {f"decoder_{key}": value for key, value in SMALL.items()}
    return saved(folder, ViTMAEModel(ViTMAEConfig(**SMALL_VIT, **decoder)))


def text_model(folder: Path) -> Path:
    return saved(folder, BertModel(BertConfig(**SMALL, vocab_size=99)))


def not_finite(folder: Path) -> Path:
    model = ViTModel(ViTConfig(**SMALL_VIT))
    torch.nn.init.constant_(model.layernorm.weight, float("nan"))
    return saved(folder, model)


def of_timm(folder: Path) -> Path:
    folder.mkdir()
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    config = '{"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": {}}'
    (folder / "config.json").write_text(config)
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (prefixed, "its checkpoint lacks embeddings.cls_token, .* more, which would be random"),
        (without_a_layer, "its checkpoint lacks .*layernorm"),
        (of_another_shape, "random|mismatch|size"),
        (autoencoder, "its output for one image differs from call to call"),
        (text_model, "it takes no images"),
        (not_finite, "its output is not finite"),
        (of_timm, "timm.*pip install timm"),
    ],
)
def test_backbone_with_random_or_no_embeddings_is_refused(tmp_path, make, message):
    with pytest.raises(FailedError, match=f"embedder must load as a .*{message}"):
        load_backbone(make(tmp_path / "model"), device="cpu")


def test_oracle_with_a_new_head_is_refused(tmp_path):
    folder = saved(tmp_path, ViTModel(ViTConfig(**SMALL_VIT)))
    with pytest.raises(FailedError, match=r"oracle .* lacks classifier\.bias"):
        load_oracle(folder, device="cpu")


@pytest.mark.parametrize(
    "settings",
    [
        '{"size": 32, "crop_size": 24, "do_center_crop": false}',
        '{"size": 32, "image_mean": 0.5, "image_std": 0.5}',
        None,
    ],
)
def test_processor_of_another_form_gives_the_same_vectors(tmp_path, settings):
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**SMALL_VIT))
    usual = twice(saved(tmp_path / "usual", model))
    assert np.array_equal(twice(saved(tmp_path / "other", model, settings)), usual)


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SIDE = {"height": 32, "width": 32}


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(size=SIDE, **IMAGENET),
        ViTImageProcessor(size=SIDE, do_normalize=False, **IMAGENET),
        ViTImageProcessor(size=SIDE, do_rescale=False, **IMAGENET),
        ViTImageProcessor(
            size=SIDE, rescale_factor=1.0, image_mean=[127.5] * 3, image_std=[127.5] * 3
        ),
        MobileViTImageProcessor(size={"shortest_edge": 32}, crop_size=SIDE),
        ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        LevitImageProcessor(size={"shortest_edge": 32}, crop_size=SIDE),
        CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=SIDE, resample=2),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_pixels_are_those_of_the_models_own_processor(tmp_path, processor):
    folder = saved(tmp_path, ViTModel(ViTConfig(**SMALL_VIT)), None)
    processor.save_pretrained(folder)
    own, model = AutoImageProcessor.from_pretrained(folder), load_backbone(folder, device="cpu")
    for side in (20, 32, 75):
        image = Image.fromarray(
            np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
        )
        theirs = own(image, return_tensors="pt")["pixel_values"]
        assert torch.allclose(pixels([image], model=model), theirs, atol=1e-5)


def test_processor_in_processor_config_is_read(tmp_path):
    text = SMALL | {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = CLIPConfig(text_config=text, vision_config=SMALL_VIT, projection_dim=16)
    folder = saved(tmp_path, CLIPModel(config), None)
    size = {"size": {"shortest_edge": 32}, "crop_size": SIDE}
    processor = CLIPImageProcessor(**size)
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": json.loads(processor.to_json_string())})
    )
    (image,) = noise(1)
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(
        pixels([image], model=load_backbone(folder, device="cpu")), theirs, atol=1e-5
    )


def test_processor_that_does_more_than_scale_and_normalise_is_refused(tmp_path):
    folder = saved(tmp_path, ViTModel(ViTConfig(**SMALL_VIT)), None)
    clusters = np.random.default_rng(0).uniform(-1, 1, (16, 3))
    ImageGPTImageProcessor(clusters=clusters, size=SIDE).save_pretrained(folder)
    with pytest.raises(FailedError, match="is not supported"):
        load_backbone(folder, device="cpu")


@pytest.mark.parametrize("cached", [0, 40, 150])
def test_each_image_is_loaded_once_whatever_the_cache_has(tmp_path, cached):
    model = load_backbone(BACKBONE, device="cpu", cache=tmp_path / "features.sqlite")
    images = noise(2 * BATCH + 20)
    embed(images[:cached], model=model)
    loaded: list[int] = []

    def load(place: int) -> Image.Image:
        loaded.append(place)
        return images[place % len(images)]

    shown: list[tuple[str, int, int]] = []

    def progress(items, label, *, total, weight, **options):
        items = list(items)
        shown.append((label, total, sum(map(weight, items))))
        return items

    twice = Pictures(load, range(2 * len(images)))  # with duplicates
    found = embed(twice, model=model, progress=progress)
    assert sorted(loaded) == list(range(2 * len(images)))
    assert shown == [("embed images", 2 * len(images), 2 * len(images))]
    expected = embed(images, model=replace(model, cache=None))
    assert (found == np.concatenate([expected, expected])).all()
