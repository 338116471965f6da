"""Settings of an augmentation set, which determine the images that are generated and kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from genie.core.errors import InvalidValueError, require_choice
from genie.data.prompts import Prompts, require_captions
from genie.data.tasks import generated_per_class
from genie.plan.levels import Levels, require_ratio_or_ada
from genie.plan.methods import METHODS, Method, noise_ratios
from genie.plan.tasks import TaskSpec

RULES = ("none", "classifier", "clip", "cosine")
"""The filter rules, which `choose.filters` defines."""


@dataclass(frozen=True)
class FilterSettings:
    """Settings of the filter, which rejects unsuitable generated images and has them redrawn.

    `rule` is one of RULES; None selects the method's default rule. `attempts` is the maximum number
    of draws per image. `min_text` and `min_image` are the minimum cosine similarities, in [-1, 1],
    for the rule "cosine". `clip` is the folder of a CLIP model.
    """

    rule: str | None = None
    attempts: int = 3
    min_text: float = 0.37
    min_image: float = 0.70
    clip: Path | None = None

    def __post_init__(self) -> None:
        if self.rule is not None:
            require_choice("rule", self.rule, RULES)
        if self.attempts < 1:
            raise InvalidValueError("must be at least 1", argument="attempts", value=self.attempts)
        for argument, cosine in (("min_text", self.min_text), ("min_image", self.min_image)):
            if not -1 <= cosine <= 1:
                raise InvalidValueError("must be in [-1, 1]", argument=argument, value=cosine)


@dataclass(frozen=True)
class Augmentation:
    """Settings of an augmentation set.

    - `method`: a key of METHODS
    - `r`: the noise ratio in (0, 1], or "ada" to choose it among `levels` for each image
    - `per_class`: the number of images per class; `classes` "few" leaves out classes with 20 or
      more real images
    - `every_source`: whether each image of the source classes is edited once, regardless of
      `per_class`
    - `prompts`, `filter`, `seed`: the prompts, the filter, and the seed of all draws
    - `inversion_steps`: the number of training steps per token, for methods that learn tokens
    - `unknown_classes`: "allow" also renders classes that the model's card does not list
    """

    method: str = "genie"
    r: float | Literal["ada"] = "ada"
    levels: Levels = field(default_factory=Levels)
    per_class: int = 10
    classes: Literal["all", "few"] = "all"
    every_source: bool = False
    prompts: Prompts = field(default_factory=Prompts)
    filter: FilterSettings = field(default_factory=FilterSettings)
    seed: int = 0
    inversion_steps: int = 400
    unknown_classes: Literal["stop", "allow"] = "stop"

    def __post_init__(self) -> None:
        require_choice("method", self.method, METHODS)
        require_ratio_or_ada(self.r)
        counts = {"per_class": self.per_class, "inversion_steps": self.inversion_steps}
        if not isinstance(self.levels, Levels) or not isinstance(self.prompts, Prompts):
            raise InvalidValueError(
                "and `prompts` must be values such as Levels(low=0.5, high=0.9, M=5) and "
                'Prompts(templates=("a photo of a {class}",))',
                argument="levels",
                value=self.levels if not isinstance(self.levels, Levels) else self.prompts,
            )
        for argument, count in counts.items():
            if not isinstance(count, int):
                raise InvalidValueError("must be a whole number", argument=argument, value=count)
            if count < 1:
                raise InvalidValueError("must be at least 1", argument=argument, value=count)
        require_seed(self.seed)
        require_choice("classes", self.classes, ("all", "few"))
        require_choice("unknown_classes", self.unknown_classes, ("stop", "allow"))

    @property
    def chosen_method(self) -> Method:
        """The method, from the registry."""
        return METHODS[self.method]

    @property
    def ratios(self) -> tuple[float, ...]:
        """The noise ratios that the method renders, ascending."""
        return noise_ratios(self.chosen_method, self.r, self.levels)

    @property
    def rule(self) -> str:
        """The filter rule: `filter.rule`, or else the method's default."""
        return self.filter.rule or self.chosen_method.rule

    def images_per_class(self, labels: Sequence[str]) -> dict[str, int]:
        """Return the number of images per class, given the labels of a task's support images."""
        return generated_per_class(
            labels,
            per_class=self.per_class,
            classes=self.classes,
            every_source=self.every_source,
        )


def require_seed(seed: object) -> None:
    """Raise InvalidValueError unless the seed is a whole number in [0, 2^32)."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InvalidValueError(
            "must be a whole number from 0 to 2^32 - 1", argument="seed", value=seed
        )


def task_spec(
    settings: Augmentation,
    support: pd.DataFrame,
    sources: pd.DataFrame,
    *,
    number: int = 0,
    tokens: Mapping[str, str] | None = None,
) -> TaskSpec:
    """Return the input of a method for one task.

    `support` has the columns image_id and label, and `sources` the columns target, source and rank.
    `tokens` are the task's learned tokens by class. Raise InvalidValueError if the method needs
    captions and a support image has none.
    """
    method, prompts = settings.chosen_method, settings.prompts
    if method.captions:
        require_captions(prompts.captions or {}, sorted(set(support["image_id"])))
    return TaskSpec(
        support=support,
        sources=sources,
        per_class=settings.images_per_class(list(support["label"])),
        ratios=settings.ratios,
        prompts=replace(
            prompts,
            templates=method.templates or prompts.templates,
            names=prompts.names if tokens is None else tokens,
            captions=prompts.captions if method.captions else None,
            contexts=prompts.contexts if method.contexts else None,
        ),
        seed=settings.seed,
        every_source=settings.every_source,
        number=number,
    )
