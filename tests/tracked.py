"""A small repository with a set that DVC tracks and a store, made without running the pipeline."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from genie.core.seeding import digest
from genie.data.augmented_set import AugmentedSet, Provenance, set_of
from genie.data.images import encode_png
from genie.render.store import save_image, store_path
from tests.scratch import call, commit

PROVENANCE = Provenance("genie", 3.0, "PNDMScheduler", "tiny", "abc")


def key_of(pair: int, level: int, seed: int = 0) -> str:
    return digest(f"{seed} {pair} {level}").hex()


def picture_of(key: str) -> bytes:
    pixels = np.random.default_rng(int(key[:12], 16)).integers(0, 256, (16, 16, 3), np.uint8)
    return encode_png(Image.fromarray(pixels))


def trajectories(images: int, *, levels: int = 3, seed: int = 0) -> pd.DataFrame:
    """One row per level; the second one is chosen. The classes are "bag" and "T-shirt/top"."""
    rows = [
        {
            "task": 0,
            "target_label": ("bag", "T-shirt/top")[pair % 2],
            "source_label": "coat",
            "source_id": f"source {pair}",
            "replicate": 0,
            "level": level,
            "r": 0.5 + 0.1 * level,
            "key": key_of(pair, level, seed),
            "steps": 15,
            "position": 0.1 * level,
            "shift_ratio": 1.5,
            "chosen": level == 1,
            "predicted_target": True,
            "embedding": np.ones(3, np.float32),
            "prompt": "a photo",
            "negative_prompt": "",
            "seed": seed,
            "support_id": "",
            "target_weight": 1.0,
        }
        for pair in range(images)
        for level in range(levels)
    ]
    return pd.DataFrame(rows)


def set_with(table: pd.DataFrame, png_of: Callable[[str], bytes]) -> AugmentedSet:
    """The set of the chosen levels of a table, whose classes are those of its targets."""
    return set_of(table, PROVENANCE, png_of=png_of, classes=set(table["target_label"]))


def write_tracked(place: Path, *, images: int = 6, seed: int = 0, shard: int | None = None) -> None:
    """Put images into the store and write the set; dvc tracks it and git commits it."""
    table = trajectories(images, seed=seed)
    store = place / ".genie/store"
    for key in table["key"]:
        save_image(store, key, picture_of(key))
    made = set_with(table, lambda key: store_path(store, key).read_bytes())
    made.save(place / "data/augmented", shards=shard)
    call(place, "dvc", "add", "--quiet", "data/augmented")
    commit(place)


def make_tracked(place: Path, *, images: int = 6, shard: int | None = None) -> Path:
    place.mkdir()
    (place / ".gitignore").write_text(".genie/\n")
    call(place, "git", "init", "--quiet")
    call(place, "dvc", "init", "--quiet")
    write_tracked(place, images=images, shard=shard)
    return place


def flip_bit(path: Path, draw: random.Random, *, keep_time: bool) -> None:
    """Flip one bit in place, at any position."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.chmod(0o644)
    path.write_bytes(bytes(content))
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
