from pathlib import Path

import pytest
import yaml

from genie.errors import GenieError
from stages.shared.params import Params, check_params
from stages.shared.settings import images_per_class, prompt_of, training_settings

ROOT = Path(__file__).parents[3]


def params(**changes: dict) -> Params:
    """The committed parameters with some keys of some sections changed."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, keys in changes.items():
        raw[section] = raw[section] | keys
    return check_params(raw, where="params.yaml")


def test_training_takes_the_parameters_of_the_classifier_and_the_seed():
    own = {"start": "scratch", "steps": 7, "batch_size": 3, "learning_rate": 0.5, "loss": "bal-bce"}
    found = training_settings(params(classifier=own))
    for key, value in own.items():
        assert getattr(found, key) == value
    assert found.backbone == Path("zoo/backbone")
    assert found.seed == 0


def test_names_of_classes_are_read_for_a_start_from_prompts_alone(tmp_path):
    nowhere = {"folder": str(tmp_path / "nowhere")}
    assert training_settings(params(prompt=nowhere)).prompt_of is None
    start = {"head": "finetune", "start": "prompts"}
    with pytest.raises(GenieError, match=r"nowhere/names\.csv does not exist"):
        training_settings(params(prompt=nowhere, classifier=start))


def test_prompt_of_a_class_is_its_first_with_its_readable_name(tmp_path):
    (tmp_path / "names.csv").write_text("class,name\nn02084071,dog\n")
    own = {"template": ["{class}, close", "{class}"], "superclass": "animal"}
    prompt = prompt_of(params(prompt=own | {"folder": str(tmp_path)}))
    assert prompt("n02084071") == "dog, close, a type of animal"
    assert prompt("golden_retriever") == "golden retriever, close, a type of animal"


def test_images_per_class_follow_the_strategy_and_the_classes_to_augment():
    labels = ["a"] * 3 + ["b"] * 25
    assert images_per_class(params(augment={"per_class": 4}), labels) == {"a": 4, "b": 4}
    few = params(augment={"per_class": 4, "classes": "few"})
    assert images_per_class(few, labels) == {"a": 4}
    every = params(sources={"strategy": "all"})
    assert images_per_class(every, labels) == {"a": 25, "b": 3}
