"""Conversion of parameters to the library's arguments, for several stages."""

from collections.abc import Callable, Sequence

from genie.classify.finetune import TrainingSettings
from genie.classify.training import generated_per_class
from genie.data.wording import read_names, wording_in_turn

from .params import Params


def training_settings(params: Params) -> TrainingSettings:
    """Return the training settings of classifiers."""
    return TrainingSettings(
        backbone=params.classifier.backbone,
        start=params.classifier.start,
        steps=params.classifier.steps,
        batch_size=params.classifier.batch_size,
        learning_rate=params.classifier.learning_rate,
        loss=params.classifier.loss,
        seed=params.seed,
        prompt_of=prompt_of(params) if params.classifier.start == "prompts" else None,
    )


def prompt_of(params: Params) -> Callable[[str], str]:
    """Return a function that maps a class name to its first prompt."""
    names = read_names(params.prompt.names)

    def prompt(class_name: str) -> str:
        return wording_in_turn(
            class_name,
            None,
            0,
            templates=params.prompt.templates,
            superclass=params.prompt.superclass,
            names=names,
        ).prompt

    return prompt


def images_per_class(params: Params, labels: Sequence[str]) -> dict[str, int]:
    """Return the number of images that every method adds to each class of a task."""
    return generated_per_class(
        labels,
        per_class=params.augment.per_class,
        classes=params.augment.classes,
        every_source=params.sources.strategy == "all",
    )
