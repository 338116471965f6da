"""The zoo's models, loaded once; settings and examples that are quick to train on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTModel

from genie.classify.backbone import ImageModel, load_backbone
from genie.classify.clip import Clip, load_clip
from genie.classify.examples import Examples
from genie.classify.settings import TrainingSettings


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small take longer on several threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def backbone() -> ImageModel:
    return load_backbone(Path("zoo/backbone"), device="cpu")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    cache = tmp_path_factory.mktemp("vectors") / "features.sqlite"
    return load_clip(Path("zoo/clip"), argument="clip", device="cpu", cache=cache)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Five pictures of noise."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(5)]


@pytest.fixture(scope="session")
def tiny_vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer with random weights, for 32x32 pixels."""
    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    sizes = {"hidden_size": 16, "intermediate_size": 32, "image_size": 32, "patch_size": 8}
    ViTModel(ViTConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(folder)
    settings = '{"size": {"height": 32, "width": 32}}'
    (folder / "preprocessor_config.json").write_text(settings)
    return folder


@pytest.fixture(scope="session")
def settings(tiny_vit_folder: Path) -> TrainingSettings:
    """Few steps of a small network from fresh weights."""
    return TrainingSettings(
        backbone=tiny_vit_folder,
        start="scratch",
        steps=30,
        batch_size=16,
        learning_rate=1e-2,
        loss="cross-entropy",
        seed=0,
    )


@pytest.fixture(scope="session")
def blobs():
    """From classes and images of each to examples that are easy to separate.

    Unit vectors around one axis per class, with grey pictures as bright as the class.
    """

    def made(classes: int, each: int = 6) -> Examples:
        random = np.random.default_rng(0)
        count = classes * each
        labels = [f"class {k}" for k in range(classes) for _ in range(each)]
        z = np.repeat(np.eye(classes, 8), each, axis=0) + 0.1 * random.normal(size=(count, 8))
        images = [Image.new("RGB", (32, 32), (40 + 60 * (i // each),) * 3) for i in range(count)]
        return Examples(images, (z / np.linalg.norm(z, axis=1)[:, None]).astype("f4"), labels)

    return made
