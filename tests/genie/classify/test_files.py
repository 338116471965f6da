from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genie.classify.classifier import Classifier, fit, predict_proba
from genie.classify.files import load_classifiers, save_classifiers
from genie.classify.heads import HEADS
from genie.core.errors import MissingFileError


@pytest.mark.parametrize("head", HEADS)
def test_saved_classifiers_come_back_whole(tmp_path, head, blobs, settings):
    examples = blobs(3)
    models = {task: fit(blobs(n), replace(settings, head=head)) for task, n in ((0, 3), (12, 2))}
    save_classifiers(models, tmp_path / "models")
    back = load_classifiers(tmp_path / "models")
    assert list(back) == [0, 12]
    for task, model in models.items():
        assert (back[task].head, back[task].start) == (head, "scratch")
        assert back[task].backbone == settings.backbone
        assert back[task].classes == model.classes
        assert (predict_proba(back[task], examples) == predict_proba(model, examples)).all()


def test_transposed_weights_and_any_class_name_come_back_as_they_were(tmp_path):
    weights = {"weight": np.arange(6, dtype=np.float32).reshape(3, 2).T}
    classes = ("007", "Mütze", 'a, "b"', "")
    model = Classifier("logistic", "backbone", Path("models/my backbone"), classes, weights)
    save_classifiers({0: model}, tmp_path)
    back = load_classifiers(tmp_path)[0]
    assert back.classes == classes
    assert back.backbone == Path("models/my backbone")
    assert (back.weights["weight"] == weights["weight"]).all()


def test_classifiers_are_the_same_bytes_every_time(tmp_path, blobs, settings):
    for name in ("a", "b"):
        save_classifiers({0: fit(blobs(3), replace(settings, head="logistic"))}, tmp_path / name)
    first, second = (
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")
    )
    assert first == second
    assert sorted(first) == ["classes.json", "task0.safetensors"]


def test_folder_without_classifiers_is_named_with_the_remedy(tmp_path):
    with pytest.raises(MissingFileError, match=r"classes\.json does not exist; run `dvc repro`"):
        load_classifiers(tmp_path)
