"""Trained classifiers on disk: one safetensors file per task, and `classes.json`."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from genie.classify.classifier import Classifier
from genie.core.errors import MissingFileError

INDEX = "classes.json"


def save_classifiers(classifiers: Mapping[int, Classifier], folder: Path) -> None:
    """Write the classifier of each task to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {
        task: {
            "head": c.head,
            "start": c.start,
            "backbone": c.backbone.as_posix(),
            "classes": list(c.classes),
        }
        for task, c in classifiers.items()
    }
    text = json.dumps(index, indent=1, ensure_ascii=False)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")
    for task, classifier in classifiers.items():
        # safetensors writes the underlying buffer, so a transposed view would be read back wrong
        weights = {k: np.ascontiguousarray(v) for k, v in sorted(classifier.weights.items())}
        save_file(weights, folder / f"task{task}.safetensors")


def load_classifiers(folder: Path) -> dict[int, Classifier]:
    """Load the classifiers that `save_classifiers` wrote, by task.

    Raise MissingFileError if the folder contains no classifiers.
    """
    path = folder / INDEX
    if not path.is_file():
        raise MissingFileError(
            "does not exist", argument=str(path), remedy="run `dvc repro` to make it"
        )
    index = json.loads(path.read_text(encoding="utf-8"))
    return {
        int(task): Classifier(
            head=c["head"],
            start=c["start"],
            backbone=Path(c["backbone"]),
            classes=tuple(c["classes"]),
            weights=load_file(folder / f"task{task}.safetensors"),
        )
        for task, c in index.items()
    }
