"""The gallery in the report: each requested image with its source, its levels and its verdict."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from genie.core.tables import UNCLEAR
from genie.data.images import decode_image
from genie.measure.analysis import rows_of_trajectories

MOST = 5000
"""Maximum number of cards; larger reports would be hard to open and send."""

BYTES = 16_000_000
"""Approximate maximum size of all images in bytes, before base64 encoding, which adds a third."""

FORMATS = ((96, 90), (64, 75), (48, 70), (32, 65))
"""Sides (in pixels) and qualities of WebP images, in the order in which they are tried."""

SAMPLE = 200  # images from which the total size is estimated

OUTCOMES = ("other class", "rejected", "not judged", "confirmed")
"""Outcomes of a request, in the order of the cards: the oracle assigns the image to another class,
a filter rejected the image, the oracle gave no verdict, or the oracle confirms the label."""

CHOICES = ("unclear", "clear", "none")
"""Labels for the clarity of the choice between levels; "none" if there are too few levels."""


@dataclass(frozen=True)
class Level:
    """A level on a card, with its r in (0, 1], the key of its image, and its position.

    `position` is None without a source-target axis. `predicted_target` is True if the baseline
    predicts the target.
    """

    r: float
    image: str
    position: float | None
    predicted_target: bool


@dataclass(frozen=True)
class Card:
    """A requested image of a task. Fields are None if there is no source, choice or verdict.

    `source_image` and `target_image` are the ids of two support images: the source and an example
    of the target. `chosen` is the index of the chosen level.
    """

    task: int
    source: str | None
    target: str
    source_image: str | None
    target_image: str
    levels: Sequence[Level]
    chosen: int | None
    outcome: str
    verdict: str | None
    probability: float | None
    choice: str
    shift_ratio: float | None


@dataclass(frozen=True)
class Gallery:
    """Cards, with failures first, and the WebP images to which they refer by id or key.

    `total` is the number of requested images; at most MOST of them have cards.
    """

    cards: Sequence[Card]
    images: Mapping[str, bytes]
    total: int


def gallery_of(
    trajectories: pd.DataFrame,
    verdicts: pd.DataFrame,
    support: pd.DataFrame,
    *,
    png: Mapping[str, bytes],
    webp: Mapping[str, bytes],
) -> Gallery:
    """Assemble the gallery of all requested images.

    `trajectories` has the columns of TRAJECTORIES, and `verdicts` has the columns of VERDICTS.
    `support` contains the support rows of the tasks. `png` maps ids of support images to PNG bytes,
    and `webp` maps keys of levels to thumbnails.
    """
    judged = {str(row.key): row for row in verdicts.itertuples()}
    firsts = support.drop_duplicates(["task", "label"])
    example = {(row.task, row.label): str(row.image_id) for row in firsts.itertuples()}
    levels: list[Any] = list(trajectories.itertuples())
    requested = [[levels[i] for i in rows] for rows in rows_of_trajectories(trajectories)]
    ranked = sorted((_card(rows, judged, example) for rows in requested), key=_rank)
    cards = _part(ranked, MOST)
    names = dict.fromkeys(name for card in cards for name in _images_of(card))
    originals = {name: png[name] if name in png else webp[name] for name in names}
    return Gallery(cards, fit(originals, BYTES), total=len(requested))


def fit(images: Mapping[str, bytes], limit: int) -> dict[str, bytes]:
    """Encode images as WebP in the first of FORMATS that needs at most about `limit` bytes.

    The total size is estimated from evenly spaced images. WebP images that are small enough are
    kept unchanged. If no format is small enough, the last one is used.
    """
    every = max(1, len(images) // SAMPLE)
    some = list(images.values())[::every]
    for side, quality in FORMATS:
        encode = partial(_webp, side=side, quality=quality)
        if every * sum(len(encode(data)) for data in some) <= limit:
            break
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(images, threads.map(encode, images.values()), strict=True))


def _card(
    rows: Sequence[Any], judged: Mapping[str, Any], example: Mapping[tuple[int, str], str]
) -> Card:
    first, kept = rows[0], [i for i, row in enumerate(rows) if row.chosen]
    verdict = judged.get(rows[kept[0]].key) if kept else None
    return Card(
        task=int(first.task),
        source=first.source_label or None,
        target=first.target_label,
        source_image=first.source_id or None,
        target_image=example[first.task, first.target_label],
        levels=[_level(row) for row in rows],
        chosen=kept[0] if kept else None,
        outcome=_outcome(bool(kept), verdict),
        verdict=verdict.verdict if verdict else None,
        probability=float(verdict.probability) if verdict else None,
        choice=_choice(float(first.shift_ratio)),
        shift_ratio=_finite(first.shift_ratio),
    )


def _level(row: Any) -> Level:
    return Level(float(row.r), row.key, _finite(row.position), bool(row.predicted_target))


def _outcome(kept: bool, verdict: Any) -> str:
    if not kept:
        return "rejected"
    if verdict is None:
        return "not judged"
    return "confirmed" if verdict.consistent else "other class"


def _choice(shift_ratio: float) -> str:
    if math.isnan(shift_ratio):
        return "none"
    return "unclear" if shift_ratio < UNCLEAR else "clear"


def _finite(value: float) -> float | None:
    """Return a rounded finite number, or None, because JSON has neither NaN nor infinity."""
    return round(float(value), 4) if math.isfinite(value) else None


def _rank(card: Card) -> tuple[int, float, int]:
    """Return the sort key of a card, from its outcome, confidence (for failures) and choice."""
    sure = (card.probability or 0) if card.outcome == "other class" else 0
    return OUTCOMES.index(card.outcome), -sure, CHOICES.index(card.choice)


def _part(cards: Sequence[Card], count: int) -> list[Card]:
    """Return `count` cards: half from the start, and half evenly spaced over the rest."""
    if len(cards) <= count:
        return list(cards)
    first = count // 2
    spread = np.linspace(first, len(cards) - 1, count - first).round().astype(int)
    return [*cards[:first], *(cards[i] for i in spread)]


def _images_of(card: Card) -> list[str]:
    source = [card.source_image] if card.source_image else []
    return [*source, *(level.image for level in card.levels), card.target_image]


def _webp(data: bytes, side: int, quality: int) -> bytes:
    """Encode an image as WebP of at most side x side pixels, unless it already is one."""
    image = Image.open(io.BytesIO(data))
    if image.format == "WEBP" and max(image.size) <= side:
        return data
    small = decode_image(data)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=quality)
    return buffer.getvalue()
