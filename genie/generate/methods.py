"""Augmentation methods: one planning function per method, all of the same type.

The function is called once per task with a `Brief`. It returns one tuple per image to be kept: the
candidates for that image, at ascending r, which share one noise sample. With a single level there
is nothing to choose.

The plan does not depend on the task's number, which only appears in error messages. Tasks with
equal support sets therefore share all requests, and tasks share a request only if they share its
source and all support images of its target.

`COPIERS` and `MIXERS` in `genie.classify.training` define how a method copies real images and mixes
them with generated ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, islice
from typing import Literal

import numpy as np
import pandas as pd

from genie.data.wording import Wording
from genie.errors import GenieError
from genie.generate.noise import levels
from genie.generate.request import Candidates, Request, Wanted
from genie.keyed import digest, identity, shuffled

WordingOf = Callable[[str, str | None, int], Wording]
"""Maps class name, source image and turn to the wording. Templates are used in turn."""


@dataclass(frozen=True)
class Brief:
    """The inputs from which a method plans one task.

    - `support`: the task's support images (columns image_id, label)
    - `sources`: the ranked source classes of each target (columns target, source, rank)
    - `per_class`: the number of images per target
    - `every_source`: whether each support image of the source classes is taken once, in place of
      taking turns
    - `levels`: the noise ratios
    - `wording`: returns the prompts of an image
    """

    support: pd.DataFrame
    sources: pd.DataFrame
    per_class: Mapping[str, int]
    every_source: bool
    levels: Sequence[float]
    wording: WordingOf
    seed: int
    task: int | None

    @cached_property
    def images(self) -> dict[str, list[str]]:
        """The distinct image ids of each class, sorted."""
        by_class = self.support.groupby("label")["image_id"]
        return {label: sorted(set(ids)) for label, ids in by_class}

    @cached_property
    def support_ids(self) -> dict[str, str]:
        """The identity of each class's support images, which its noise is keyed by."""
        return {label: identity(ids) for label, ids in self.images.items()}


Plan = Callable[[Brief], list[Candidates]]


def no_images(brief: Brief) -> list[Candidates]:
    """Plan no images."""
    return []


def genie(brief: Brief) -> list[Candidates]:
    """Plan GeNIe: images of the source classes in turn, denoised under the target's prompt."""
    planned = []
    for target, wanted in brief.per_class.items():
        classes = _source_classes(brief, target)
        pools = [(c, _pool(c, target=target, brief=brief)) for c in classes]
        if brief.every_source:
            slots = [(c, image, 0) for c, pool in pools for image in pool]
        else:
            slots = list(islice(_rotation(pools, target, brief.task), wanted))
        planned += [_candidates(*slot, target=target, brief=brief) for slot in slots]
    return planned


def img2img(brief: Brief) -> list[Candidates]:
    """Plan Img2Img: images of the target class, denoised under its own prompt."""
    planned = []
    for target, wanted in brief.per_class.items():
        pool = _pool(target, target=target, brief=brief)
        slots = islice(_rotation([(target, pool)], target, brief.task), wanted)
        planned += [_candidates(*slot, target=target, brief=brief) for slot in slots]
    return planned


def txt2img(brief: Brief) -> list[Candidates]:
    """Plan Txt2Img: pure noise (r = 1, whatever the levels) denoised under the target's prompt."""
    drawn = replace(brief, levels=(1.0,))
    return [
        _candidates(None, None, replicate, target=target, brief=drawn)
        for target, wanted in brief.per_class.items()
        for replicate in range(wanted)
    ]


def any_other_class(brief: Brief) -> list[Candidates]:
    """Plan Diff-Mix: images of any other class at random, denoised under the target's prompt."""
    label = {image: name for name, images in brief.images.items() for image in images}
    planned = []
    for target, wanted in brief.per_class.items():
        others = [image for image in sorted(label) if label[image] != target]
        if not others:
            raise GenieError(
                f"diff-mix needs images of another class than {target!r}, but task {brief.task} "
                "has none; choose img2img, or a data set with two classes or more"
            )
        drawn = _in_random_order(others, target, brief)
        for i in range(wanted):
            replicate, position = divmod(i, len(drawn))
            slot = label[drawn[position]], drawn[position], replicate
            planned.append(_candidates(*slot, target=target, brief=brief))
    return planned


def real_guidance(brief: Brief) -> list[Candidates]:
    """Plan Real Guidance: Img2Img with less noise where a class has more support images."""
    if brief.levels:
        return img2img(brief)
    return [
        one
        for target, wanted in brief.per_class.items()
        for levels in [(ratio_by_shots(len(brief.images[target])),)]
        for one in img2img(replace(brief, per_class={target: wanted}, levels=levels))
    ]


def ratio_by_shots(shots: int) -> float:
    """Return Real Guidance's noise ratio for a class with so many support images."""
    return RATIO_BY_SHOTS[max(least for least in RATIO_BY_SHOTS if least <= shots)]


@dataclass(frozen=True)
class Method:
    """An augmentation method.

    - `plan`: returns the images it renders for a task
    - `ratio`: its noise ratio if `noise.r` is "ada" but it does not compare levels; None if it
      compares them or has no source
    - `searches`: whether an image has several candidates when several levels are given
    - `learns`: whether its prompts contain a token learned from the class's support images
    - `captions`: whether its prompts are the captions of the source images
    - `contexts`: whether its prompts come from the contexts file
    - `rule`: its default filter rule
    - `templates`: its own prompt templates, in turn; none means those of the parameters
    - `by_shots`: whether its ratio depends on a class's number of support images if `noise.r` is
      "ada"
    - `gamma`: the exponent of soft labels, see `target_weights`; None means hard labels
    """

    plan: Plan
    ratio: float | None = None
    searches: bool = False
    learns: bool = False
    captions: bool = False
    contexts: bool = False
    rule: str = "none"
    templates: tuple[str, ...] = ()
    by_shots: bool = False
    gamma: float | None = None

    @property
    def renders(self) -> bool:
        """Whether it renders images."""
        return self.plan is not no_images


OWN_CLASS_RATIO = 0.7  # as in the paper's Img2Img H; for sources of the target class

DIFF_MIX_RATIO, DIFF_MIX_GAMMA = 0.8, 0.8  # Wang et al. 2024
DIFFUSEMIX_RATIO = 0.5  # for a style on the same layout; the authors use an editing model instead
STYLES = (  # Islam et al. 2024
    "autumn",
    "snowy",
    "watercolor art",
    "sunset",
    "rainbow",
    "aurora",
    "mosaic",
    "ukiyo-e",
    "a sketch with crayon",
)
# by least shots; less noise with more shots is He et al. 2023's rule, the values are our choice
RATIO_BY_SHOTS = {1: 0.5, 2: 0.4, 4: 0.35, 8: 0.2, 16: 0.15}

METHODS: dict[str, Method] = {
    "cap2aug": Method(img2img, ratio=OWN_CLASS_RATIO, captions=True),
    "cutmix": Method(no_images),
    "da-fusion": Method(img2img, ratio=OWN_CLASS_RATIO, learns=True),
    "diff-mix": Method(any_other_class, ratio=DIFF_MIX_RATIO, gamma=DIFF_MIX_GAMMA),
    "diffcore-mix": Method(txt2img, contexts=True, rule="cosine"),
    "diffusemix": Method(
        img2img,
        ratio=DIFFUSEMIX_RATIO,
        templates=tuple(f"a photo of a {{class}}, {style}" for style in STYLES),
    ),
    "genie": Method(genie, searches=True),
    "img2img": Method(img2img, ratio=OWN_CLASS_RATIO),
    "mixup": Method(no_images),
    "none": Method(no_images),
    "real-guidance": Method(real_guidance, rule="clip", by_shots=True),
    "strong": Method(no_images),
    "txt2img": Method(txt2img),
    "weak": Method(no_images),
}


def noise_ratios(
    method: str, *, r: float | Literal["ada"], count: int, low: float, high: float
) -> tuple[float, ...]:
    """Return the noise ratios that a method renders, ascending: one ratio, or all levels.

    With r "ada", a method that does not compare levels renders its default ratio. There is none for
    a method whose ratio depends on the class.
    """
    ratio = METHODS[method].ratio
    if r != "ada":
        return (r,)
    if METHODS[method].by_shots:
        return ()
    return levels(low, high, count) if ratio is None else (ratio,)


def target_weights(method: str, r: np.ndarray) -> np.ndarray:
    """Return the weight of the target's label of images at noise ratios r (n,), in (0, 1].

    It is r^gamma for a method with soft labels (Diff-Mix, eq. 4), and the source's class has the
    rest of the weight. It is 1 for all others.
    """
    gamma = METHODS[method].gamma
    return np.ones(len(r)) if gamma is None else np.asarray(r, float) ** gamma


def plan_tasks(
    method: str,
    support: pd.DataFrame,
    sources: pd.DataFrame,
    *,
    ratios: Sequence[float],
    per_class: Callable[[Sequence[str]], Mapping[str, int]],
    every_source: bool,
    wording_of: Callable[[int], WordingOf],
    seed: int,
) -> list[Wanted]:
    """Plan the images of a method for all tasks, task by task.

    `support` has columns task, image_id, label. `sources` has the columns of SOURCES. `per_class`
    maps the labels of a task's support images to the number of images per class. `every_source` is
    explained at `Brief`. `wording_of` maps a task to its wording function.
    """
    wanted = []
    for task, rows in support.groupby("task"):
        brief = Brief(
            support=rows,
            sources=sources[sources["task"] == task],
            per_class=per_class(list(rows["label"])),
            every_source=every_source,
            levels=ratios,
            wording=wording_of(int(task)),
            seed=seed,
            task=int(task),
        )
        wanted += [Wanted(int(task), one) for one in METHODS[method].plan(brief)]
    return wanted


def _source_classes(brief: Brief, target: str) -> list[str]:
    """Return the target's source classes in order of rank."""
    rows = brief.sources[brief.sources["target"] == target]
    return list(rows.sort_values("rank")["source"])


def _pool(label: str, *, target: str, brief: Brief) -> list[str]:
    """Return a class's support images in an order that depends only on seed, target and image."""
    if label not in brief.images:
        raise GenieError(
            f"every source class must have support images, but {label!r} has none in task "
            f"{brief.task}; run `dvc repro select_sources` again"
        )
    return _in_random_order(brief.images[label], target, brief)


def _in_random_order(images: Sequence[str], target: str, brief: Brief) -> list[str]:
    """Return images in an order that depends only on seed, target and image."""
    return shuffled(images, lambda image: f"{brief.seed}/{target}/{image}")


def _rotation(
    pools: Sequence[tuple[str, list[str]]], target: str, task: int | None
) -> Iterator[tuple[str, str, int]]:
    """Yield (label, image, replicate) endlessly, one image of each class in turn.

    Each class cycles through its images, and `replicate` counts the cycles.
    """
    if not pools:
        raise GenieError(
            f"every target must have a source class, but {target!r} has none in task {task}; "
            f"run `dvc repro select_sources` again"
        )
    for i in count():
        label, pool = pools[i % len(pools)]
        replicate, position = divmod(i // len(pools), len(pool))
        yield label, pool[position], replicate


def _candidates(
    source_label: str | None, source_id: str | None, replicate: int, *, target: str, brief: Brief
) -> Candidates:
    # the turn depends on the image and not on its place in a task, so that tasks share requests
    start = "" if source_id is None else f"{source_id}/{target}"
    turn = int.from_bytes(digest(start), "big") + replicate if start else replicate
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
            support_id=brief.support_ids[target],
        )
        for r in sorted(brief.levels)
    )
