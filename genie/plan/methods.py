"""The registry of augmentation methods, with one object per method.

A method's `plan` function is called once per task with a `TaskSpec`. For each image in the set, it
returns the candidate levels, which are requests at ascending r with a shared noise sample. If there
is only one level, no choice is needed.

The plan does not depend on the task's number, which only appears in error messages. Tasks with
equal support sets therefore share all requests. Other tasks share a request only if they share its
source image and all support images of its target.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Literal

import numpy as np

from genie.core.errors import InvalidValueError
from genie.core.seeding import digest, shuffled
from genie.plan.levels import Levels, denoising_steps
from genie.plan.requests import Request, Slot
from genie.plan.tasks import TaskSpec

Planned = list[tuple[Request, ...]]
"""The candidate levels of each image of the set."""

Plan = Callable[[TaskSpec], Planned]


def no_images(task: TaskSpec) -> Planned:
    """Plan no images."""
    return []


def genie(task: TaskSpec) -> Planned:
    """Plan GeNIe, which denoises images of each source class in turn under the target's prompt."""
    planned = []
    for target, number in task.per_class.items():
        pools = [(c, _pool(c, target=target, task=task)) for c in task.sources_of(target)]
        if task.every_source:
            turns = [(c, image, 0) for c, pool in pools for image in pool]
        else:
            turns = list(islice(_rotation(pools, target, task.number), number))
        planned += [levels_of(task, target, *turn) for turn in turns]
    return planned


def img2img(task: TaskSpec) -> Planned:
    """Plan Img2Img, which denoises images of the target class under the target's own prompt."""
    planned = []
    for target, number in task.per_class.items():
        pool = _pool(target, target=target, task=task)
        turns = islice(_rotation([(target, pool)], target, task.number), number)
        planned += [levels_of(task, target, *turn) for turn in turns]
    return planned


def txt2img(task: TaskSpec) -> Planned:
    """Plan Txt2Img, which denoises pure noise (r = 1 for any levels) under the target's prompt."""
    drawn = replace(task, ratios=(1.0,))
    return [
        levels_of(drawn, target, None, None, replicate)
        for target, number in task.per_class.items()
        for replicate in range(number)
    ]


def any_other_class(task: TaskSpec) -> Planned:
    """Plan Diff-Mix, which denoises random images of other classes under the target's prompt."""
    label = {image: name for name, images in task.images.items() for image in images}
    planned = []
    for target, number in task.per_class.items():
        others = [image for image in sorted(label) if label[image] != target]
        if not others:
            raise InvalidValueError(
                f"diff-mix needs images of another class than {target!r}, but task {task.number} "
                "has none",
                remedy="choose img2img, or a data set with two classes or more",
            )
        drawn = _in_random_order(others, target, task)
        for i in range(number):
            replicate, position = divmod(i, len(drawn))
            source = drawn[position]
            planned.append(levels_of(task, target, label[source], source, replicate))
    return planned


def real_guidance(task: TaskSpec) -> Planned:
    """Plan Real Guidance, which is Img2Img with less noise for classes with more support images."""
    if task.ratios:
        return img2img(task)
    return [
        levels
        for target, number in task.per_class.items()
        for ratios in [(ratio_by_shots(len(task.images[target])),)]
        for levels in img2img(replace(task, per_class={target: number}, ratios=ratios))
    ]


def ratio_by_shots(shots: int) -> float:
    """Return Real Guidance's noise ratio for a class with `shots` support images."""
    return RATIO_BY_SHOTS[max(bound for bound in RATIO_BY_SHOTS if bound <= shots)]


@dataclass(frozen=True)
class Method:
    """An augmentation method.

    - `plan`: a function that returns the images to render for a task
    - `adds`, `use`: descriptions of what it adds to the support images and when to use it, for the
      table of methods
    - `ratio`: its noise ratio for `r` "ada" if it does not compare levels; None if it compares
      levels or needs no source
    - `searches`: whether it compares candidates for each image if several levels are given
    - `learns`: whether its prompts contain a token learned from the class's support images
    - `captions`: whether its prompts are the captions of the source images
    - `contexts`: whether its prompts come from the contexts file
    - `rule`: its default filter rule, a key of `choose.filters.RULES`
    - `copier`: how it copies real images, a key of `classify.transforms.COPIERS`
    - `mixer`: how it mixes generated images with real images, a key of
      `classify.transforms.MIXERS`; None if it does not mix them
    - `mixes_with_sources`: whether it mixes an image with its own source instead of any real image
      of its class
    - `templates`: its own prompt templates, used in rotation; if empty, those of the settings
    - `by_shots`: whether its ratio for `r` "ada" depends on a class's number of support images
    - `gamma`: the exponent of soft labels (see `target_weights`); None means hard labels
    """

    plan: Plan
    adds: str
    use: str
    ratio: float | None = None
    searches: bool = False
    learns: bool = False
    captions: bool = False
    contexts: bool = False
    rule: str = "none"
    copier: str = "weak"
    mixer: str | None = None
    mixes_with_sources: bool = False
    templates: tuple[str, ...] = ()
    by_shots: bool = False
    gamma: float | None = None

    @property
    def renders(self) -> bool:
        """Whether the method renders images."""
        return self.plan is not no_images


OWN_CLASS_RATIO = 0.7  # for sources of the target class, as in the paper's Img2Img H

DIFF_MIX_RATIO, DIFF_MIX_GAMMA = 0.8, 0.8  # Wang et al. 2024
DIFFUSEMIX_RATIO = 0.5  # changes the style but not the layout; the authors use an editing model
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
# by minimum number of shots; less noise with more shots is He et al. 2023's rule, with our values
RATIO_BY_SHOTS = {1: 0.5, 2: 0.4, 4: 0.35, 8: 0.2, 16: 0.15}

METHODS: dict[str, Method] = {
    "none": Method(
        no_images,
        adds="unchanged copies",
        use="to see what any augmentation is worth",
        copier="unchanged",
    ),
    "weak": Method(
        no_images,
        adds="random crops and flips",
        use="the baseline that every gain is measured against",
    ),
    "strong": Method(
        no_images,
        adds="also colour jitter, greyscale and blur",
        use="when colour does not distinguish your classes",
        copier="strong",
    ),
    "cutmix": Method(
        no_images,
        adds="patches of two images, with weighted labels",
        use="as a comparison; the paper finds no gain at few shots",
        copier="cutmix",
    ),
    "mixup": Method(
        no_images,
        adds="blends of two images, with weighted labels",
        use="as a comparison; the paper finds no gain at few shots",
        copier="mixup",
    ),
    "img2img": Method(
        img2img,
        adds="the class's own images, noised and denoised",
        use="when you want more images like those you have",
        ratio=OWN_CLASS_RATIO,
    ),
    "txt2img": Method(
        txt2img,
        adds="images from the prompt alone",
        use="when the background does not matter",
    ),
    "da-fusion": Method(
        img2img,
        adds="`img2img` under a token learned per class",
        use="when the generator does not know your classes",
        ratio=OWN_CLASS_RATIO,
        learns=True,
    ),
    "cap2aug": Method(
        img2img,
        adds="`img2img` under a caption of each image",
        use="when images show more than their class name says",
        ratio=OWN_CLASS_RATIO,
        captions=True,
    ),
    "diff-mix": Method(
        any_other_class,
        adds="images of any other class, drawn at random, with soft labels",
        use="as the nearest relative of GeNIe: it changes the class, but does not choose sources "
        "or r",
        ratio=DIFF_MIX_RATIO,
        gamma=DIFF_MIX_GAMMA,
    ),
    "diffusemix": Method(
        img2img,
        adds="the class's own images in nine styles, one half of each joined to its source, and a "
        "fractal",
        use="when style varies more than content",
        ratio=DIFFUSEMIX_RATIO,
        mixer="half-and-fractal",
        mixes_with_sources=True,
        templates=tuple(f"a photo of a {{class}}, {style}" for style in STYLES),
    ),
    "real-guidance": Method(
        real_guidance,
        adds="`img2img` with less noise the more images a class has, filtered by CLIP",
        use="when generated images should stay close to the real ones",
        rule="clip",
        by_shots=True,
    ),
    "diffcore-mix": Method(
        txt2img,
        adds="images from contextual and negative prompts, filtered by CLIP, mixed with real "
        "images",
        use="when you can say what may vary and what must not appear",
        contexts=True,
        rule="cosine",
        mixer="pixel-and-patch",
    ),
    "genie": Method(
        genie,
        adds="images of other classes under the target's prompt",
        use="hard negatives at the decision boundary",
        searches=True,
    ),
}
"""All methods, in the order in which the docs list them."""


def noise_ratios(method: Method, r: float | Literal["ada"], levels: Levels) -> tuple[float, ...]:
    """Return the noise ratios that a method renders: one ratio, or all levels in ascending order.

    With r "ada", a method that does not compare levels renders at its default ratio. The result is
    empty for a method whose ratio depends on the class.
    """
    if r != "ada":
        return (r,)
    if method.by_shots:
        return ()
    return levels.ratios if method.ratio is None else (method.ratio,)


def target_weights(method: Method, r: np.ndarray) -> np.ndarray:
    """Return the weight of the target label, in (0, 1], for images at noise ratios r (n,).

    For a method with soft labels, the weight is r^gamma (Diff-Mix, eq. 4), and the source's class
    gets the remaining weight. For all other methods, the weight is 1.
    """
    return np.ones(len(r)) if method.gamma is None else np.asarray(r, float) ** method.gamma


def methods_table(steps: int = 50) -> str:
    """Return a Markdown table of all methods, with their costs at `steps` steps per image."""
    rows = [
        "| `method` | what it adds | noise ratio where `r` is `ada` | guided steps per image "
        "| when to use it |",
        "|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        cells = (f"`{name}`", method.adds, _ratio(method), _steps(method, steps), method.use)
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(rows)


def _ratio(method: Method) -> str:
    """Return the noise ratio of a method as text."""
    if not method.renders:
        return ""
    if method.by_shots:
        fewest, most = min(RATIO_BY_SHOTS), max(RATIO_BY_SHOTS)
        highest, lowest = RATIO_BY_SHOTS[fewest], RATIO_BY_SHOTS[most]
        return f"{highest} at {fewest} image to {lowest} at {most} or more"
    if method.plan is txt2img:
        return "1, always"
    if method.ratio is not None:
        return f"{method.ratio:g}"
    return "chosen per image (GeNIe-Ada)" if method.searches else "one of the levels"


def _steps(method: Method, steps: int) -> str:
    """Return the guided steps per image of a method as text."""
    if not method.renders:
        return "0"
    ratios = noise_ratios(method, "ada", Levels())
    counts = [denoising_steps(r, steps) for r in (ratios or RATIO_BY_SHOTS.values())]
    one_level = len(counts) > 1 and not method.searches
    count = f"{max(counts)} to {min(counts)}" if one_level else f"{sum(counts)}"
    if method.plan is txt2img:
        count = f"{steps}"
    if method.learns:
        count += ", and the training of a token"
    return count if method.rule == "none" else f"{count} per attempt"


def plan_slots(method: Method, tasks: Sequence[TaskSpec]) -> list[Slot]:
    """Plan the images of a method for all tasks, task by task."""
    return [Slot(task.number, levels) for task in tasks for levels in method.plan(task)]


def levels_of(
    task: TaskSpec, target: str, source_label: str | None, source_id: str | None, replicate: int
) -> tuple[Request, ...]:
    """Return the requests for one image, one for each of the task's ratios, in ascending order.

    The prompt template depends on the image, not on its position in the task, so that tasks can
    share requests.
    """
    turn = replicate
    if source_id is not None:
        turn += int.from_bytes(digest(f"{source_id}/{target}"), "big")
    prompt, negative = task.prompts.wording(target, source_id, turn)
    return tuple(
        Request(
            source_id=source_id,
            source_label=source_label,
            target_label=target,
            prompt=prompt,
            negative_prompt=negative,
            r=r,
            replicate=replicate,
            seed=task.seed,
            support_id=task.support_ids.get(target, ""),
        )
        for r in sorted(task.ratios)
    )


def _pool(label: str, *, target: str, task: TaskSpec) -> list[str]:
    """Return a class's support images in an order that depends only on seed, target and image."""
    if label not in task.images:
        raise InvalidValueError(
            f"every source class must have support images, but {label!r} has none in task "
            f"{task.number}",
            remedy="run `dvc repro select_sources` again",
        )
    return _in_random_order(task.images[label], target, task)


def _in_random_order(images: Sequence[str], target: str, task: TaskSpec) -> list[str]:
    """Return images in an order that depends only on seed, target and image."""
    return shuffled(images, lambda image: f"{task.seed}/{target}/{image}")


def _rotation(
    pools: Sequence[tuple[str, list[str]]], target: str, task: int | None
) -> Iterator[tuple[str, str, int]]:
    """Yield (label, image, replicate) endlessly, one image of each class in turn.

    Each class cycles through its images, and `replicate` counts the cycles.
    """
    if not pools:
        raise InvalidValueError(
            f"every target must have a source class, but {target!r} has none in task {task}",
            remedy="run `dvc repro select_sources` again",
        )
    for i in count():
        label, pool = pools[i % len(pools)]
        replicate, position = divmod(i // len(pools), len(pool))
        yield label, pool[position], replicate


def ratio_note(method: str, r: float | Literal["ada"]) -> str:
    """Return a note if a method uses its own ratio instead of "ada", or else an empty string."""
    chosen = METHODS[method]
    if r == "ada" and chosen.by_shots:
        return f"; `r` falls with the support images of a class for {method}"
    if r != "ada" or chosen.ratio is None:
        return ""
    return f"; `r` is {chosen.ratio} for {method}, which compares no levels"
