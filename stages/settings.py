"""Parameters that several stages hand to the library in the same shape."""

from collections.abc import Sequence
from pathlib import Path

from genie.classifiers import TrainingSettings
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
    )


def images_per_class(params: Params, labels: Sequence[str]) -> dict[str, int]:
    """How many images each class of a task gets beside its support images, by any method."""
    return generated_per_class(
        labels,
        per_class=params.augment.per_class,
        classes=params.augment.classes,
        every_source=params.sources.strategy == "all",
    )
