import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genie.data.images import encode_png
from genie.data.thumbnails import thumbnail
from genie.figures import gallery
from genie.figures.gallery import fit, gallery_of

CLASSES = ["bag", "coat", "shirt"]
SUPPORT = pd.DataFrame(
    {"task": 0, "image_id": [f"image of {c}" for c in CLASSES], "label": CLASSES}
)


def flat(grey: int, side: int = 16) -> Image.Image:
    return Image.new("RGB", (side, side), (grey,) * 3)


PNG = {f"image of {c}": encode_png(flat(10 * i)) for i, c in enumerate(CLASSES)}


def levels(name: str, *, target="coat", source="bag", ratio=1.5, chosen=1, count=3, task=0):
    """The rows of one trajectory, whose keys start with its name."""
    return pd.DataFrame(
        {
            "task": task,
            "target_label": target,
            "source_label": source,
            "source_id": source and f"image of {source}",
            "replicate": sum(map(ord, name)),
            "level": range(count),
            "r": [0.5 + 0.2 * i for i in range(count)],
            "key": [f"{name}{i}" for i in range(count)],
            "position": [0.4 * i if source else np.nan for i in range(count)],
            "shift_ratio": ratio,
            "chosen": [i == chosen for i in range(count)],
            "predicted_target": [i > 0 for i in range(count)],
        }
    )


def verdict(key: str, predicted: str, probability: float, label: str = "coat") -> dict:
    return {
        "key": key,
        "label": label,
        "verdict": predicted,
        "probability": probability,
        "consistent": predicted == label,
    }


NO_VERDICTS = pd.DataFrame([verdict("none", "coat", 1)]).iloc[:0]


def gallery_from(*trajectories: pd.DataFrame, verdicts: list[dict] | None = None):
    table = pd.concat(trajectories)
    return gallery_of(
        table,
        pd.DataFrame(verdicts) if verdicts else NO_VERDICTS,
        SUPPORT,
        png=PNG,
        webp={key: thumbnail(flat(100)) for key in table["key"]},
    )


def test_card_has_the_source_its_levels_and_a_real_target():
    made = gallery_from(levels("a"), verdicts=[verdict("a1", "coat", 0.9)])
    (card,) = made.cards
    assert (card.source, card.target, card.task) == ("bag", "coat", 0)
    assert (card.source_image, card.target_image) == ("image of bag", "image of coat")
    assert [(one.r, one.image, one.position) for one in card.levels] == [
        (0.5, "a0", 0.0),
        (pytest.approx(0.7), "a1", 0.4),
        (pytest.approx(0.9), "a2", 0.8),
    ]
    assert [one.predicted_target for one in card.levels] == [False, True, True]
    assert card.chosen == 1
    assert (card.outcome, card.verdict, card.probability) == ("confirmed", "coat", 0.9)


def test_gallery_has_each_image_once_as_webp():
    made = gallery_from(levels("a"), levels("b"))
    assert set(made.images) == {f"{n}{i}" for n in "ab" for i in range(3)} | {
        "image of bag",
        "image of coat",
    }
    greys = {name: Image.open(io.BytesIO(data)) for name, data in made.images.items()}
    assert {image.format for image in greys.values()} == {"WEBP"}
    assert greys["image of coat"].convert("L").getpixel((0, 0)) == pytest.approx(10, abs=3)
    assert greys["a0"].convert("L").getpixel((0, 0)) == pytest.approx(100, abs=3)


def test_failures_come_first_the_surest_before_all():
    made = gallery_from(
        *(levels(name) for name in "abcd"),
        levels("e", chosen=None),
        levels("f", ratio=1.05),
        verdicts=[
            verdict("a1", "coat", 0.99),
            verdict("b1", "shirt", 0.6),
            verdict("c1", "bag", 0.8),
            verdict("f1", "coat", 0.5),
        ],
    )
    order = [(card.levels[0].image[0], card.outcome) for card in made.cards]
    assert order == [
        ("c", "other class"),
        ("b", "other class"),
        ("e", "rejected"),
        ("d", "not judged"),
        ("f", "confirmed"),  # its choice was unclear
        ("a", "confirmed"),
    ]


@pytest.mark.parametrize(
    ("ratio", "choice", "shown"),
    [
        (1.0999, "unclear", 1.0999),
        (1.1, "clear", 1.1),
        (np.inf, "clear", None),
        (np.nan, "none", None),
    ],
)
def test_choice_is_unclear_below_the_bound_and_none_where_nothing_was_compared(
    ratio, choice, shown
):
    (card,) = gallery_from(levels("a", ratio=ratio)).cards
    assert (card.choice, card.shift_ratio) == (choice, shown)


def test_text_to_image_has_neither_source_nor_positions():
    (card,) = gallery_from(levels("a", source=None, ratio=np.nan, count=1, chosen=0)).cards
    assert (card.source, card.source_image) == (None, None)
    assert [one.position for one in card.levels] == [None]


def test_part_of_too_many_cards_is_half_the_first_and_half_spread_over_the_rest(monkeypatch):
    monkeypatch.setattr(gallery, "MOST", 6)
    names = "abcdefghijkl"
    verdicts = [verdict(f"{n}1", "bag", 0.9 - 0.01 * i) for i, n in enumerate(names)]
    made = gallery_from(*(levels(n) for n in names), verdicts=verdicts)
    assert made.total == 12
    shown = [card.levels[0].image[0] for card in made.cards]
    assert shown[:3] == ["a", "b", "c"]
    assert shown[3:] == ["d", "h", "l"]
    assert {name[0] for name in made.images} - {"i"} == set(shown) - {"i"}


def test_images_keep_their_bytes_where_they_fit_and_shrink_where_they_do_not():
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (96, 96, 3), np.uint8)) for _ in range(4)]
    images = {str(i): thumbnail(image) for i, image in enumerate(noise)}
    total = sum(map(len, images.values()))
    assert fit(images, total) == images
    half = fit(images, total // 2)
    assert sum(map(len, half.values())) <= total // 2
    assert {Image.open(io.BytesIO(data)).size for data in half.values()} == {(64, 64)}
    assert {Image.open(io.BytesIO(d)).size for d in fit(images, 1).values()} == {(32, 32)}


def test_large_source_is_shrunk_to_a_thumbnail():
    (data,) = fit({"a": encode_png(flat(50, side=300))}, 10**6).values()
    assert Image.open(io.BytesIO(data)).size == (96, 96)


def test_without_images_the_gallery_is_empty():
    made = gallery_of(levels("a").iloc[:0], NO_VERDICTS, SUPPORT, png=PNG, webp={})
    assert (list(made.cards), made.images, made.total) == ([], {}, 0)
