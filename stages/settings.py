"""Parameters that several stages hand to the library in the same shape."""

from collections.abc import Callable, Sequence
from pathlib import Path

from genie.classifiers import TrainingSettings
from genie.prompts import read_names, wording_in_turn
from genie.training import generated_per_class
from stages.params import Params


def training_settings(params: Params) -> TrainingSettings:
    """How classifiers are trained."""
    return TrainingSettings(
        backbone=Path(params.classifier.backbone),
        pretrained=params.classifier.pretrained,
        steps=params.classifier.steps,
        batch_size=params.classifier.batch_size,
        learning_rate=params.classifier.learning_rate,
        loss=params.classifier.loss,
        seed=params.seed,
        prompt_of=prompt_of(params) if params.classifier.initial == "prompts" else None,
    )


def prompt_of(params: Params) -> Callable[[str], str]:
    """From class name to its first prompt."""
    names = read_names(Path(params.prompt.names))

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
    """How many images each class of a task gets beside its support images, by any method."""
    return generated_per_class(
        labels,
        per_class=params.augment.per_class,
        classes=params.augment.classes,
        every_source=params.sources.strategy == "all",
    )
