"""Random draws keyed by identity instead of order, and fingerprints of files.

Every random choice of data, sources and noise is seeded by the identity of what is drawn, so adding
a task or an image changes no other draw. Within a task, copies, mixtures and mini-batches are drawn
in order from the task's seed. The hashed bytes of a key determine the draws, so a change to this
module changes images and metrics.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd


def digest(text: str) -> bytes:
    """Return the SHA-256 digest of a text."""
    return hashlib.sha256(text.encode()).digest()


def number(text: str) -> int:
    """Return the first eight bytes of a text's digest as a 64-bit integer."""
    return int.from_bytes(digest(text)[:8], "big")


def shuffled(names: Iterable[str], key: Callable[[str], str]) -> list[str]:
    """Return the names in a random order that depends only on `key(name)`."""
    return sorted(names, key=lambda name: digest(key(name)))


def numbered_rng(*key: int, label: str = "") -> np.random.Generator:
    """Return a random generator keyed by integers and a label."""
    return np.random.default_rng([*key, zlib.crc32(label.encode())])


def identity(names: Iterable[str]) -> str:
    """Return an order-independent 128-bit hash (hex) of a collection of names."""
    return digest("\n".join(sorted(names))).hex()[:32]


def support_identity(labels: Iterable[str], image_ids: Iterable[str]) -> str:
    """Return an order-independent hash (hex) of a support set.

    The task's number is not hashed, so draws keyed by this hash are the same in equal tasks and
    independent in different tasks.
    """
    return identity(f"{image} {label}" for label, image in zip(labels, image_ids, strict=True))


def identity_of(support: pd.DataFrame) -> str:
    """Return the `support_identity` of a table with the columns label and image_id."""
    return support_identity(support["label"], support["image_id"])


def task_seed(seed: int, task: str, purpose: str) -> int:
    """Return a 31-bit seed for one purpose in one task, given the task's identity.

    Tasks are identified by their support sets (`support_identity`), so equal tasks draw the same
    numbers, and different tasks draw independent numbers.
    """
    return number(f"{seed}/{task}/{purpose}") >> 33


def step_seed(seed: int, step: int) -> int:
    """Return the seed of one training step.

    A resumed training run draws the same numbers as an uninterrupted one.
    """
    return seed * 1_000_003 + step


def fingerprint(folder: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 (hex) of the names and contents of files in a folder.

    Names are relative to `folder`, so the location of the folder does not matter.
    """
    total = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()
