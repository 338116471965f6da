"""What a generator says about itself in `genie.json`."""

import json

import pytest

from genie.core.errors import InvalidValueError
from genie.plan.model_card import known_classes, model_licence, read_json, read_model_card


def test_a_model_without_a_card_names_no_classes(tmp_path):
    assert read_model_card(tmp_path) == {}
    assert known_classes(tmp_path) is None
    (tmp_path / "genie.json").write_text('{"steps": 3}')
    assert read_model_card(tmp_path) == {"steps": 3}
    assert known_classes(tmp_path) is None
    (tmp_path / "genie.json").write_text(json.dumps({"classes": ["a", 7]}))
    assert known_classes(tmp_path) == ["a", "7"]


def test_model_names_its_licence_in_its_card_or_brings_a_file(tmp_path):
    assert model_licence(tmp_path) == ""
    (tmp_path / "LICENSE").write_text("CreativeML Open RAIL-M")
    assert model_licence(tmp_path) == "CreativeML Open RAIL-M"
    (tmp_path / "genie.json").write_text(json.dumps({"steps": 20}))
    assert model_licence(tmp_path) == "CreativeML Open RAIL-M"
    (tmp_path / "genie.json").write_text(json.dumps({"license": "MIT"}))
    assert model_licence(tmp_path) == "MIT"


@pytest.mark.parametrize(
    ("text", "rule"), [("steps: 3", "must be JSON, but"), ("[1, 2]", "must be a JSON object")]
)
def test_a_card_that_is_no_json_object_is_an_error_that_names_the_file(tmp_path, text, rule):
    path = tmp_path / "genie.json"
    path.write_text(text)
    with pytest.raises(InvalidValueError, match=r"fix or download it again") as error:
        read_json(path)
    assert error.value.argument == str(path)
    assert error.value.rule.startswith(rule)
