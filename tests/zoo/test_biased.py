import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.spatial.distance import mahalanobis

from genie.core.tables import read_images
from genie.data.images import encode_png
from zoo.biased import (
    BACKBONE,
    ENDS,
    THIRDS,
    biased,
    border_colours,
    distances,
    groups_of,
    main,
    opposite_ends,
    thirds,
)


def grey(levels, labels) -> pd.DataFrame:
    """Return an images table of plain grey images."""
    png = [encode_png(Image.new("RGB", (32, 32), (v, v, v))) for v in levels]
    return pd.DataFrame({"image_id": [str(v) for v in levels], "label": labels, "png": png})


def test_border_colour_is_cie_lab_without_the_centre():
    image = Image.new("RGB", (32, 32), (255, 0, 0))
    image.paste((255, 255, 255), (4, 4, 28, 28))
    found = border_colours(pd.DataFrame({"png": [encode_png(image)]}))
    assert found == pytest.approx(np.array([[53.24, 80.09, 67.20]]), abs=0.02)


def test_distances_are_those_of_scipy():
    rng = np.random.default_rng(0)
    pool, colours = rng.normal(size=(50, 3)) * [1, 5, 2], rng.normal(size=(4, 3))
    inverse = np.linalg.inv(np.cov(pool.T))
    expected = [mahalanobis(c, pool.mean(0), inverse) for c in colours]
    assert distances(colours, pool) == pytest.approx(expected, rel=1e-4)


def test_thirds_are_of_each_class():
    values = pd.Series([5.0, 1, 3, 10, 30, 20, 40, 50, 60])
    assert list(thirds(values, pd.Series(list("aaabbbbbb")))) == [2, 0, 1, 0, 1, 0, 1, 2, 2]


def test_images_far_from_the_pool_of_their_class_are_unusual():
    groups = groups_of(grey(range(90, 111), ["a"] * 21), grey([101, 150, 240], ["a"] * 3))
    assert groups["third"].tolist() == list(THIRDS)
    assert groups["brightness"].tolist() == [0, 1, 2]


def test_most_confused_classes_have_opposite_ends_and_the_lighter_one_is_bright():
    names = list("abcd")
    matrix = pd.DataFrame(np.eye(4), names, names)
    matrix.loc["a", "c"], matrix.loc["c", "b"], matrix.loc["d", "a"] = 0.5, 0.4, 0.3
    lightness = pd.Series({"a": 10, "b": 40, "c": 20, "d": 30})
    assert opposite_ends(matrix, lightness) == {"a": False, "c": True, "b": True, "d": False}


def test_biased_support_is_the_quarter_at_the_end_of_its_class():
    pool = grey([*range(10, 90, 10), *range(100, 180, 10)], ["a"] * 8 + ["b"] * 8)
    found = biased(pool, pool["image_id"].astype(float), {"a": True, "b": False})
    assert sorted(found["image_id"]) == ["100", "110", "70", "80"]


def test_command_writes_the_biased_data_and_the_groups_of_all_query_images(photos, tmp_path):
    data = tmp_path / "photos"
    data.symlink_to(photos)

    def written() -> dict[str, bytes]:
        result = CliRunner().invoke(main, ["--data", str(data), "--backbone", str(BACKBONE)])
        assert result.exit_code == 0, result.output
        files = [*tmp_path.glob("*.csv"), *tmp_path.glob("photos-biased/*/*")]
        return {path.name + path.parent.name: path.read_bytes() for path in files}

    first = written()
    assert len(first) == 4
    assert written() == first
    support, query = (read_images(tmp_path / "photos-biased" / part) for part in ("train", "test"))
    assert support["label"].value_counts().tolist() == [1, 1, 1]
    groups = pd.read_csv(tmp_path / "photos-biased-groups.csv")
    assert list(groups["image_id"]) == list(query["image_id"])
    assert set(groups["end"]) == set(ENDS)
    usual = pd.read_csv(tmp_path / "photos-groups.csv")
    assert usual.equals(groups[["image_id", "third"]])


def test_missing_data_is_an_error(tmp_path):
    result = CliRunner().invoke(main, ["--data", str(tmp_path)])
    assert "run `python -m zoo.cifar10` first" in result.output
