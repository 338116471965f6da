"""Classifiers: `fit` and `predict_proba` for linear heads and for fine-tuned networks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from genie.classify.examples import Examples, take, weights_of
from genie.classify.heads import HEADS, Weights, head_probabilities
from genie.classify.settings import TrainingSettings
from genie.core.errors import InvalidValueError

FINETUNE = "finetune"
"""The value of `head` that trains the whole network instead of a linear head."""


@dataclass(frozen=True)
class Classifier:
    """A trained classifier: its class names in column order and its weights by name.

    `head` is a key of HEADS, or FINETUNE for a network whose initial weights `start` selects.
    `backbone` is the folder of the underlying model.
    """

    head: str
    start: str
    backbone: Path
    classes: tuple[str, ...]
    weights: Weights


def fit(examples: Examples, settings: TrainingSettings) -> Classifier:
    """Train a classifier on the examples.

    Raise InvalidValueError if there are fewer than two classes.
    """
    classes = tuple(sorted(set(examples.labels)))
    if len(classes) < 2:
        raise InvalidValueError("a classifier needs at least two classes", value=list(classes))
    targets = np.array([classes.index(label) for label in examples.labels])
    if settings.head == FINETUNE:
        from genie.classify.finetune import train_network  # slow to import, as accelerate is

        weights = train_network(examples, targets, classes, settings)
    else:
        fit_head = HEADS[settings.head]
        weights = fit_head(examples.embeddings, targets, weights_of(examples), settings.seed)
    return Classifier(settings.head, settings.start, settings.backbone, classes, weights)


def predict_proba(classifier: Classifier, examples: Examples) -> np.ndarray:
    """Return (n, c) probabilities in the order of `classifier.classes`."""
    if classifier.head == FINETUNE:
        from genie.classify.finetune import network_probabilities  # slow to import

        return network_probabilities(
            classifier.weights,
            examples.images,
            start=classifier.start,
            backbone=classifier.backbone,
            classes=len(classifier.classes),
        )
    return head_probabilities(classifier.weights, examples.embeddings)


def predict(classifier: Classifier, examples: Examples) -> np.ndarray:
    """Return the predicted class name of each example, (n,)."""
    return np.array(classifier.classes)[predict_proba(classifier, examples).argmax(1)]


def out_of_fold(examples: Examples, settings: TrainingSettings, *, folds: int = 5) -> np.ndarray:
    """Return (n, c) out-of-fold probabilities: no classifier predicts its own training examples.

    Columns are the sorted class names. Classes are weighted inversely to their number of examples,
    because an unbalanced classifier predicts one of the largest classes for every image of a long
    tail. FINETUNE is replaced by logistic regression on the frozen embeddings, because training
    `folds` more networks per task would cost more than all other training. The examples of each
    class are assigned to the folds in rotation, so a class with fewer images than folds is absent
    from some folds. A class that is absent from the training folds has probability 0. If fewer than
    two classes are left for training, as in 1-shot tasks, the whole row is 0.
    """
    if settings.head == FINETUNE:
        settings = replace(settings, head="logistic")
    labels = np.array(examples.labels)
    classes = sorted(set(labels))
    fold = _folds(labels, folds)
    probabilities = np.zeros((len(labels), len(classes)))
    for k in np.unique(fold):
        kept = take(examples, np.flatnonzero(fold != k).tolist())
        if len(set(kept.labels)) < 2:
            continue
        balanced = replace(kept, weights=_balancing_weights(kept.labels))
        model = fit(balanced, settings)
        columns = np.array([classes.index(c) for c in model.classes])
        rows = np.flatnonzero(fold == k)
        held_out = take(examples, rows.tolist())
        probabilities[np.ix_(rows, columns)] = predict_proba(model, held_out)
    return probabilities


def _balancing_weights(labels: Sequence[str]) -> np.ndarray:
    """Return weights (n,) whose sum is the same for every class, and n in total."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return len(labels) / (len(counts) * counts[inverse])


def _folds(labels: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold of each example (n,), assigned in rotation within each class."""
    fold = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = labels == label
        fold[members] = np.arange(members.sum()) % folds
    return fold
