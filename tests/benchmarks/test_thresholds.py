import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks.thresholds import bound, main, thresholds, to_support
from genie.core.errors import GenieError


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def vectors() -> np.ndarray:
    """Two classes of 40 unit vectors, a and b in turn, around two axes."""
    rng = np.random.default_rng(1)
    return unit(0.3 * rng.normal(size=(80, 6)) + np.tile(np.eye(6)[:2], (40, 1)))


LABELS = np.array(["a", "b"] * 40)


def test_similarity_to_all_images_of_a_class_leaves_out_the_image_itself(vectors):
    found = to_support(vectors, LABELS, None)
    for i, label in enumerate(LABELS):
        for j, other in enumerate("ab"):
            rest = [z for k, z in enumerate(vectors) if LABELS[k] == other and k != i]
            assert found[i, j] == pytest.approx(np.mean(rest, axis=0) @ vectors[i]), label


def test_one_support_image_is_another_image_of_the_class(vectors):
    found = to_support(vectors, LABELS, 1)
    for i in range(len(vectors)):
        for j, other in enumerate("ab"):
            rest = [k for k in range(len(vectors)) if LABELS[k] == other and k != i]
            assert np.isclose(vectors[rest] @ vectors[i], found[i, j]).any()
    assert np.std(found[:, 0]) > np.std(to_support(vectors, LABELS, 20)[:, 0])


def test_a_bound_has_at_most_five_in_a_hundred_real_images_below_it():
    values = np.linspace(0, 1, 1001)
    assert bound(values) == 0.05
    assert bound(values - 0.5) == -0.45
    assert (values < bound(values)).mean() <= 0.05


def test_real_images_pass_and_those_of_another_class_do_not(vectors):
    found = thresholds(vectors, LABELS, np.eye(6)[:2])
    assert found["support_images"].tolist() == [1, 5, 20, 39]
    every = found.iloc[-1]
    assert 0 < every["below_text"] <= 0.05
    assert 0 < every["below_image"] <= 0.05
    assert every["kept"] >= 1 - every["below_text"] - every["below_image"]
    assert every["others_kept"] == 0
    swapped = thresholds(vectors, LABELS, np.eye(6)[1::-1])
    assert swapped["min_text"].iloc[0] < every["min_text"]


def test_a_class_of_one_image_is_an_error():
    with pytest.raises(GenieError, match="at least 2 training images per class"):
        thresholds(np.eye(3), np.array(["a", "a", "b"]), np.eye(3)[:2])


def test_the_command_writes_the_bounds_of_the_training_images_alone(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    out = tmp_path / "bounds.csv"
    result = CliRunner().invoke(main, ["--data", str(photos), "--out", str(out)])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out)
    images = sum(1 for path in (photos / "train").rglob("*") if path.is_file())
    assert (table["n"] == images).all()
    assert f"filter.min_text={table['min_text'].iloc[0]:g}" in result.output
