import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genie.classify.backbone import embed
from genie.classify.examples import Examples, join, load_examples, picker, take, weights_of
from genie.data.images import encode_png


def examples(labels: str, *, first: int = 0, weights: list[float] | None = None) -> Examples:
    """An example per letter; the image, the vector and the label tell it apart."""
    numbers = range(first, first + len(labels))
    return Examples(
        [Image.new("RGB", (8, 8), (n, n, n)) for n in numbers],
        np.array([[n, -n] for n in numbers], np.float32).reshape(-1, 2),
        list(labels),
        None if weights is None else np.array(weights),
    )


def numbers(found: Examples) -> list[int]:
    """Which examples these are, by image and by vector."""
    by_image = [image.getpixel((0, 0))[0] for image in found.images]
    assert found.embeddings[:, 0].tolist() == by_image
    return by_image


def test_images_of_a_table_are_embedded_in_its_order(backbone, pictures):
    table = pd.DataFrame({"png": [encode_png(p) for p in pictures], "label": list("abcab")})
    loaded = load_examples(table, backbone=backbone)
    assert [i.tobytes() for i in loaded.images] == [p.tobytes() for p in pictures]
    assert (loaded.embeddings == embed(pictures, model=backbone)).all()
    assert list(loaded.labels) == list("abcab")
    assert weights_of(loaded).tolist() == [1.0] * 5


def test_examples_are_selected_in_the_given_order():
    taken = take(examples("abcd", weights=[0.1, 0.2, 0.3, 0.4]), [3, 1, 1])
    assert numbers(taken) == [3, 1, 1]
    assert list(taken.labels) == ["d", "b", "b"]
    assert taken.weights.tolist() == [0.4, 0.2, 0.2]


def test_examples_are_picked_by_their_id():
    pick = picker(examples("abc"), ["x", "007", "z"])
    assert numbers(pick(["z", "007"])) == [2, 1]
    assert list(pick(["z", "007"]).labels) == ["c", "b"]
    assert not pick([]).labels
    with pytest.raises(KeyError, match="unknown"):
        pick(["unknown"])


def test_joined_examples_keep_their_order_and_count_one_where_no_weight_is_given():
    parts = [examples("ab"), examples(""), examples("c", first=7, weights=[0.5])]
    joined = join(*parts)
    assert numbers(joined) == [0, 1, 7]
    assert list(joined.labels) == ["a", "b", "c"]
    assert joined.weights.tolist() == [1.0, 1.0, 0.5]
