"""CIFAR-10's parts share no image and no near-duplicate."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from genie.core.errors import GenieError
from genie.core.tables import read_images
from zoo.cifar10 import CLASSES, load_parts, main, near_duplicates, read_part
from zoo.parts import Part


def photographs(count: int, *, seed: int) -> np.ndarray:
    """Return smooth random images (count, 32, 32, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.array([np.asarray(Image.fromarray(c).resize((32, 32))) for c in coarse])


def write_package(folder: Path, train: Part, query: Part) -> Path:
    """Write images as the package does: a row of 1024 pixels each, in six files."""
    folder.mkdir()
    batches = dict(zip([f"data_batch_{i}" for i in range(1, 6)], np.split(train.images, 5)))  # noqa: B905
    for name, images in (batches | {"test_batch": query.images}).items():
        Image.fromarray(images.reshape(-1, 1024, 3)).save(folder / f"{name}.png")
    (folder / "train_lables.json").write_text(json.dumps(train.labels.tolist()))
    (folder / "test_lables.json").write_text(json.dumps(query.labels.tolist()))
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty training images, of which two are copies of query images: brighter, and mirrored."""
    monkeypatch.setattr("zoo.cifar10.SUPPORT_POOL", 20)
    train, query = photographs(60, seed=0), photographs(20, seed=1)
    train[3] = (query[0] * 0.7 + 40).astype(np.uint8)
    train[4] = query[1][:, ::-1]
    labels = np.arange(60) % 10
    return write_package(tmp_path / "package", Part(train, labels), Part(query, labels[:20]))


def test_images_are_read_row_by_row_with_their_labels(package: Path) -> None:
    part = read_part(package, ("test_batch",), "test_lables.json")
    assert np.array_equal(part.images, photographs(20, seed=1))
    assert part.labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize(
    "changed",
    [
        lambda image: image,
        lambda image: image[:, ::-1],
        lambda image: (image * 0.6 + 50).astype(np.uint8),
        lambda image: np.roll(image, 1, axis=0),
        lambda image: np.asarray(Image.fromarray(image).resize((24, 24)).resize((32, 32))),
    ],
    ids=["same", "mirrored", "recoloured", "shifted", "blurred"],
)
def test_changed_copies_are_near_duplicates_and_other_images_are_not(changed) -> None:
    images, others = photographs(30, seed=0), photographs(30, seed=1)
    others[7] = changed(images[3])
    assert np.flatnonzero(near_duplicates(images, others)).tolist() == [3]


def test_parts_share_no_image_and_no_near_duplicate(package: Path) -> None:
    parts = load_parts(package)
    assert len(parts.query.labels) == 20
    assert len(parts.support.labels) + len(parts.pretraining.labels) == 58
    held_out = np.concatenate([parts.support.images, parts.query.images])
    assert not near_duplicates(parts.pretraining.images, held_out).any()
    assert not near_duplicates(parts.support.images, parts.query.images).any()


def test_command_writes_pools_of_different_images(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "pools"
    arguments = ["--data", str(package), "--out", str(out), "--per-class", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    support, query = (read_images(out / pool) for pool in ("train", "test"))
    assert not set(support.image_id) & set(query.image_id)
    assert set(query.label) == set(CLASSES)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenieError, match=r"data_batch_1\.png does not exist; --data must hold"):
        load_parts(tmp_path)
