"""What each augmentation method wants rendered: one function per method, all of one signature.

A method is called once per task as

    method(support, sources, per_class=..., levels=..., prompt=..., negative_prompt=..., seed=...,
           task=...)

with `support` the task's support images (columns image_id, label), `sources` its ranked source
classes (target, source, rank), `per_class` the number of images per target (None: as many as the
target's source classes have support images), `levels` the noise ratios, and `prompt` a function
from class name, source image and turn to prompt (several templates take turns). It returns one
tuple per image to be kept: the candidates for that image, at ascending r, all sharing one noise
sample. With one level there is nothing to choose.

No choice depends on `task`, so tasks that share images share requests; it only names errors.

With its plan each method has a `fill`: how copies of real images are made where it generates
fewer than `per_class`, so that all methods train on equally many samples.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Protocol

import pandas as pd

from genie.errors import GenieError
from genie.records import Request
from genie.transforms import (
    Fill,
    cutmix_copies,
    mixup_copies,
    strong_copies,
    unchanged_copies,
    weak_copies,
)

Candidates = tuple[Request, ...]


class Plan(Protocol):
    """The signature that all plans share."""

    def __call__(
        self,
        support: pd.DataFrame,
        sources: pd.DataFrame,
        *,
        per_class: Mapping[str, int | None],
        levels: Sequence[float],
        prompt: Callable[[str, str | None, int], str],
        negative_prompt: str,
        seed: int,
        task: int | None,
    ) -> list[Candidates]: ...


def no_images(
    support: pd.DataFrame,
    sources: pd.DataFrame,
    *,
    per_class: Mapping[str, int | None],
    levels: Sequence[float],
    prompt: Callable[[str, str | None, int], str],
    negative_prompt: str,
    seed: int,
    task: int | None,
) -> list[Candidates]:
    """No images are generated."""
    return []


def genie(
    support: pd.DataFrame,
    sources: pd.DataFrame,
    *,
    per_class: Mapping[str, int | None],
    levels: Sequence[float],
    prompt: Callable[[str, str | None, int], str],
    negative_prompt: str,
    seed: int,
    task: int | None,
) -> list[Candidates]:
    """GeNIe: images of the source classes under the target's prompt, source classes in rotation."""
    images = _images_by_class(support)
    planned = []
    for target, wanted in per_class.items():
        classes = _source_classes(sources, target)
        pools = [(c, _pool(images, c, seed=seed, target=target, task=task)) for c in classes]
        if wanted is None:
            slots = [(c, image, 0) for c, pool in pools for image in pool]
        else:
            slots = list(islice(_rotation(pools, target, task), wanted))
        planned += [
            _candidates(image, label, target, replicate, levels, prompt, negative_prompt, seed)
            for label, image, replicate in slots
        ]
    return planned


def img2img(
    support: pd.DataFrame,
    sources: pd.DataFrame,
    *,
    per_class: Mapping[str, int | None],
    levels: Sequence[float],
    prompt: Callable[[str, str | None, int], str],
    negative_prompt: str,
    seed: int,
    task: int | None,
) -> list[Candidates]:
    """Img2Img: images of the target class itself under its own prompt."""
    images = _images_by_class(support)
    planned = []
    for target, wanted in per_class.items():
        pool = _pool(images, target, seed=seed, target=target, task=task)
        slots = islice(
            _rotation([(target, pool)], target, task), _count(wanted, target, sources, images)
        )
        planned += [
            _candidates(image, label, target, replicate, levels, prompt, negative_prompt, seed)
            for label, image, replicate in slots
        ]
    return planned


def txt2img(
    support: pd.DataFrame,
    sources: pd.DataFrame,
    *,
    per_class: Mapping[str, int | None],
    levels: Sequence[float],
    prompt: Callable[[str, str | None, int], str],
    negative_prompt: str,
    seed: int,
    task: int | None,
) -> list[Candidates]:
    """Txt2Img: no source; pure noise (r = 1) under the target's prompt, whatever `levels` is."""
    images = _images_by_class(support)
    return [
        _candidates(None, None, target, replicate, (1.0,), prompt, negative_prompt, seed)
        for target, wanted in per_class.items()
        for replicate in range(_count(wanted, target, sources, images))
    ]


@dataclass(frozen=True)
class Method:
    """What a method has rendered, and what it makes of real images at training.

    `searches`: whether it has several candidates per image where several levels are given.
    `learns`: whether its prompts name a token learned from the class's support images.
    `captions`: whether its prompts are the captions of the source images.
    """

    plan: Plan
    fill: Fill
    searches: bool = False
    learns: bool = False
    captions: bool = False


METHODS: dict[str, Method] = {
    "cap2aug": Method(img2img, weak_copies, captions=True),
    "cutmix": Method(no_images, cutmix_copies),
    "da-fusion": Method(img2img, weak_copies, learns=True),
    "genie": Method(genie, weak_copies, searches=True),
    "img2img": Method(img2img, weak_copies),
    "mixup": Method(no_images, mixup_copies),
    "none": Method(no_images, unchanged_copies),
    "strong": Method(no_images, strong_copies),
    "txt2img": Method(txt2img, weak_copies),
    "weak": Method(no_images, weak_copies),
}


def _images_by_class(support: pd.DataFrame) -> dict[str, list[str]]:
    """Class -> distinct image ids, sorted."""
    return {label: sorted(set(ids)) for label, ids in support.groupby("label")["image_id"]}


def _source_classes(sources: pd.DataFrame, target: str) -> list[str]:
    """Source classes of the target, most confused first."""
    return list(sources[sources["target"] == target].sort_values("rank")["source"])


def _pool(
    images: Mapping[str, list[str]], label: str, *, seed: int, target: str, task: int | None
) -> list[str]:
    """Support images of a class in an order that only seed, target and image decide."""
    if label not in images:
        raise GenieError(
            f"every source class must have support images, {label!r} has none in task {task}; "
            f"run `dvc repro select_sources` again"
        )
    return sorted(
        images[label], key=lambda i: hashlib.sha256(f"{seed}/{target}/{i}".encode()).digest()
    )


def _rotation(
    pools: Sequence[tuple[str, list[str]]], target: str, task: int | None
) -> Iterator[tuple[str, str, int]]:
    """Endless (label, image, replicate): one image per class in turn, each class cycling."""
    if not pools:
        raise GenieError(
            f"every target must have a source class, {target!r} has none in task {task}; "
            f"run `dvc repro select_sources` again"
        )
    for i in count():
        label, pool = pools[i % len(pools)]
        replicate, position = divmod(i // len(pools), len(pool))
        yield label, pool[position], replicate


def _count(
    wanted: int | None, target: str, sources: pd.DataFrame, images: Mapping[str, list[str]]
) -> int:
    """Images wanted of a target; None means one per support image of its source classes."""
    if wanted is not None:
        return wanted
    return sum(len(images.get(c, ())) for c in _source_classes(sources, target))


def _candidates(
    source_id: str | None,
    source_label: str | None,
    target: str,
    replicate: int,
    levels: Sequence[float],
    prompt: Callable[[str, str | None, int], str],
    negative_prompt: str,
    seed: int,
) -> Candidates:
    # by what the image is, not by its place in a task, so that tasks share it
    start = "" if source_id is None else f"{source_id}/{target}"
    turn = int(hashlib.sha256(start.encode()).hexdigest(), 16) + replicate if start else replicate
    return tuple(
        Request(
            source_id=source_id,
            source_label=source_label,
            target_label=target,
            prompt=prompt(target, source_id, turn),
            negative_prompt=negative_prompt,
            r=r,
            replicate=replicate,
            seed=seed,
        )
        for r in sorted(levels)
    )
