"""Fashion-MNIST's parts share no image, and the bundled tables hold what they should."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from genie.core.errors import GenieError
from genie.core.tables import read_images
from genie.data.images import decode_image, image_id
from zoo.fashion_mnist import BUNDLED, CLASSES, main, read_idx
from zoo.parts import Part, split

ROOT = Path(__file__).parents[2]


def part(values: list[int]) -> Part:
    """One flat image per value, labelled by value modulo ten."""
    images = np.array([np.full((32, 32), value, np.uint8) for value in values])
    return Part(images, np.array(values) % 10)


def keys(part: Part) -> set[bytes]:
    return {image.tobytes() for image in part.images}


def test_parts_share_no_image_even_where_the_originals_do() -> None:
    parts = split(part([*range(50), *range(10)]), part([3, 4, 60, 60]), support=20, seed=0)
    assert not keys(parts.pretraining) & keys(parts.support)
    assert not keys(parts.query) & (keys(parts.pretraining) | keys(parts.support))
    assert keys(parts.query) == keys(part([3, 4, 60]))
    assert all(len(keys(p)) == len(p.labels) for p in parts)


def test_split_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    first, again, other = (
        split(part(list(range(100))), part([200]), support=30, seed=seed) for seed in (0, 0, 1)
    )
    assert keys(first.support) == keys(again.support) != keys(other.support)


def test_idx_file_is_read_in_its_shape(tmp_path: Path) -> None:
    header = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3])
    (tmp_path / "a.gz").write_bytes(gzip.compress(header + bytes(range(6))))
    assert read_idx(tmp_path / "a.gz").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_missing_idx_file_is_named() -> None:
    with pytest.raises(GenieError, match=r"nowhere.*does not exist"):
        read_idx(Path("nowhere.gz"))


def test_command_reports_a_folder_without_the_data(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--data", str(tmp_path), "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "train-images-idx3-ubyte.gz does not exist" in result.output


@pytest.mark.parametrize("pool", ["train", "test"])
def test_bundled_pool_holds_500_different_images_of_every_class(pool: str) -> None:
    table = read_images(ROOT / BUNDLED / pool)
    assert table.label.value_counts().to_dict() == dict.fromkeys(CLASSES, 500)
    assert table.image_id.is_unique
    images = [decode_image(png) for png in table.png]
    assert {image.size for image in images} == {(32, 32)}
    assert [image_id(image) for image in images] == list(table.image_id)


def test_bundled_pools_share_no_image() -> None:
    train, test = (set(read_images(ROOT / BUNDLED / p).image_id) for p in ("train", "test"))
    assert not train & test
