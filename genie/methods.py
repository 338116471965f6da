"""What each augmentation method wants rendered: one function per method, all of one signature.

A method is called once per task with a `Brief` and returns one tuple per image to be kept: the
candidates for that image, at ascending r, all sharing one noise sample. With one level there is
nothing to choose.

No choice depends on the task's number, so tasks that share images share requests; it only names
errors.

With its plan each method says how its training samples are made: copies of real images where it
generates fewer than `per_class`, so that all methods train on equally many, and mixtures.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice

import pandas as pd

from genie.errors import GenieError
from genie.prompts import Wording
from genie.records import Candidates, Request
from genie.transforms import (
    Fill,
    Mix,
    cutmix_copies,
    mixup_copies,
    pixel_and_patch_mix,
    strong_copies,
    unchanged_copies,
    weak_copies,
)


@dataclass(frozen=True)
class Brief:
    """What is to be planned for one task.

    `support`: the task's support images (columns image_id, label). `sources`: its ranked source
    classes (target, source, rank). `per_class`: the number of images per target (None: as many as
    the target's source classes have support images). `levels`: the noise ratios. `wording`: from
    class name, source image and turn (several templates take turns) to prompt and negative prompt.
    """

    support: pd.DataFrame
    sources: pd.DataFrame
    per_class: Mapping[str, int | None]
    levels: Sequence[float]
    wording: Callable[[str, str | None, int], Wording]
    seed: int
    task: int | None


Plan = Callable[[Brief], list[Candidates]]


def no_images(brief: Brief) -> list[Candidates]:
    """No images are generated."""
    return []


def genie(brief: Brief) -> list[Candidates]:
    """GeNIe: images of the source classes under the target's prompt, source classes in rotation."""
    images = _images_by_class(brief)
    planned = []
    for target, wanted in brief.per_class.items():
        classes = _source_classes(brief, target)
        pools = [(c, _pool(images, c, target=target, brief=brief)) for c in classes]
        if wanted is None:
            slots = [(c, image, 0) for c, pool in pools for image in pool]
        else:
            slots = list(islice(_rotation(pools, target, brief.task), wanted))
        planned += [_candidates(*slot, target=target, brief=brief) for slot in slots]
    return planned


def img2img(brief: Brief) -> list[Candidates]:
    """Img2Img: images of the target class itself under its own prompt."""
    images = _images_by_class(brief)
    planned = []
    for target in brief.per_class:
        pool = _pool(images, target, target=target, brief=brief)
        rotation = _rotation([(target, pool)], target, brief.task)
        slots = islice(rotation, _count(brief, target, images))
        planned += [_candidates(*slot, target=target, brief=brief) for slot in slots]
    return planned


def txt2img(brief: Brief) -> list[Candidates]:
    """Txt2Img: no source; pure noise (r = 1) under the target's prompt, whatever the levels are."""
    images = _images_by_class(brief)
    drawn = replace(brief, levels=(1.0,))
    return [
        _candidates(None, None, replicate, target=target, brief=drawn)
        for target in brief.per_class
        for replicate in range(_count(brief, target, images))
    ]


@dataclass(frozen=True)
class Method:
    """What a method has rendered, and what it makes of real images at training.

    `ratio`: the noise ratio it takes where noise.r is "ada", of which it has no use; None where it
    compares levels itself or has no source. `searches`: whether it has several candidates per
    image where several levels are given. `learns`: whether its prompts name a token learned from
    the class's support images. `captions`: whether they are the captions of the source images.
    `contexts`: whether they come from the contexts file. `rule`: the filter it has of its own.
    `mix`: how its generated images are mixed with real ones before training.
    """

    plan: Plan
    fill: Fill
    ratio: float | None = None
    searches: bool = False
    learns: bool = False
    captions: bool = False
    contexts: bool = False
    rule: str = "none"
    mix: Mix | None = None


# own class as source: the paper's Img2Img H
_OWN_CLASS_RATIO = 0.7

METHODS: dict[str, Method] = {
    "cap2aug": Method(img2img, weak_copies, ratio=_OWN_CLASS_RATIO, captions=True),
    "cutmix": Method(no_images, cutmix_copies),
    "da-fusion": Method(img2img, weak_copies, ratio=_OWN_CLASS_RATIO, learns=True),
    "diffcore-mix": Method(
        txt2img, weak_copies, contexts=True, rule="cosine", mix=pixel_and_patch_mix
    ),
    "genie": Method(genie, weak_copies, searches=True),
    "img2img": Method(img2img, weak_copies, ratio=_OWN_CLASS_RATIO),
    "mixup": Method(no_images, mixup_copies),
    "none": Method(no_images, unchanged_copies),
    "strong": Method(no_images, strong_copies),
    "txt2img": Method(txt2img, weak_copies),
    "weak": Method(no_images, weak_copies),
}


def _images_by_class(brief: Brief) -> dict[str, list[str]]:
    """Class -> distinct image ids, sorted."""
    by_class = brief.support.groupby("label")["image_id"]
    return {label: sorted(set(ids)) for label, ids in by_class}


def _source_classes(brief: Brief, target: str) -> list[str]:
    """Source classes of the target, most confused first."""
    own = brief.sources[brief.sources["target"] == target]
    return list(own.sort_values("rank")["source"])


def _pool(images: Mapping[str, list[str]], label: str, *, target: str, brief: Brief) -> list[str]:
    """Support images of a class in an order that only seed, target and image decide."""
    if label not in images:
        raise GenieError(
            f"every source class must have support images, {label!r} has none in task "
            f"{brief.task}; run `dvc repro select_sources` again"
        )
    return sorted(
        images[label], key=lambda i: hashlib.sha256(f"{brief.seed}/{target}/{i}".encode()).digest()
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


def _count(brief: Brief, target: str, images: Mapping[str, list[str]]) -> int:
    """Images wanted of a target; None means one per support image of its source classes."""
    wanted = brief.per_class[target]
    if wanted is not None:
        return wanted
    return sum(len(images.get(c, ())) for c in _source_classes(brief, target))


def _candidates(
    source_label: str | None, source_id: str | None, replicate: int, *, target: str, brief: Brief
) -> Candidates:
    # by what the image is, not by its place in a task, so that tasks share it
    start = "" if source_id is None else f"{source_id}/{target}"
    turn = int(hashlib.sha256(start.encode()).hexdigest(), 16) + replicate if start else replicate
    wording = brief.wording(target, source_id, turn)
    return tuple(
        Request(
            source_id=source_id,
            source_label=source_label,
            target_label=target,
            prompt=wording.prompt,
            negative_prompt=wording.negative,
            r=r,
            replicate=replicate,
            seed=brief.seed,
        )
        for r in sorted(brief.levels)
    )
