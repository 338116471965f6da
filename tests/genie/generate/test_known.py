import json
from pathlib import Path

import pytest

from genie.errors import GenieError
from genie.generate.known import (
    known_classes,
    model_licence,
    needs_known_classes,
    read_settings,
    require_known,
    unknown_classes,
)

KNOWN = ["T-shirt/top", "T-shirt", "ankle boot", "trouser"]


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("ankle boot", {}),
        ("ankle_boot", {}),
        ("Ankle Boot", {}),
        ("t_shirt", {"t_shirt": "T-shirt"}),
        ("n04", {"n04": "ankle_boot"}),
    ],
)
def test_class_is_known_under_the_name_that_prompts_use(label, names):
    assert unknown_classes([label], KNOWN, names) == []


@pytest.mark.parametrize(
    ("label", "names"),
    [("cat", {}), ("t_shirt", {}), ("boot", {}), ("ankle boot", {"ankle boot": "spaceship"})],
)
def test_class_of_another_name_is_unknown(label, names):
    assert unknown_classes([label, "trouser"], KNOWN, names) == [label]


def test_known_classes_raise_nothing():
    require_known(["trouser", "ankle boot"], KNOWN, {}, model=Path("m"))


def test_error_names_the_classes_and_the_three_ways_on():
    with pytest.raises(GenieError) as error:
        require_known(["plane", "cat", "trouser"], KNOWN, {}, model=Path("zoo/generator"))
    text = str(error.value)
    assert "generator.model zoo/generator does not know 2 of the classes: 'cat', 'plane' (" in text
    assert "T-shirt/top, T-shirt, ankle boot, trouser" in text
    assert "`genie fetch stable-diffusion-v1-5/stable-diffusion-v1-5 models/sd15` (5.5 GB" in text
    assert "CreativeML OpenRAIL-M" in text
    assert "cutmix, da-fusion, mixup, none, strong, weak" in text
    assert text.endswith("insist with generator.unknown_classes=allow")
    assert "names.csv" not in text
    assert "\n" not in text


def test_another_word_for_a_known_class_is_suggested():
    with pytest.raises(GenieError, match=r"if 'trousers' is 'trouser', say so in names.csv"):
        require_known(["trousers"], KNOWN, {}, model=Path("m"))


def test_many_unknown_classes_are_counted():
    with pytest.raises(GenieError, match=r"5 of the classes: '0', '1', '2', \.\.\. \("):
        require_known("01234", KNOWN, {}, model=Path("m"))


def test_methods_that_render_a_class_by_its_name_need_to_know_it():
    assert [m for m in ("genie", "txt2img", "cap2aug") if not needs_known_classes(m)] == []
    assert [m for m in ("weak", "mixup", "da-fusion") if needs_known_classes(m)] == []


def test_a_model_that_says_nothing_knows_no_list(tmp_path):
    assert read_settings(tmp_path) == {}
    assert known_classes(tmp_path) is None
    (tmp_path / "genie.json").write_text('{"steps": 3}')
    assert known_classes(tmp_path) is None
    (tmp_path / "genie.json").write_text(json.dumps({"classes": ["a", 7]}))
    assert known_classes(tmp_path) == ["a", "7"]


def test_model_names_its_licence_in_its_settings_or_brings_a_file(tmp_path):
    assert model_licence(tmp_path) == ""
    (tmp_path / "LICENSE").write_text("CreativeML Open RAIL-M")
    assert model_licence(tmp_path) == "CreativeML Open RAIL-M"
    (tmp_path / "genie.json").write_text(json.dumps({"steps": 20}))
    assert model_licence(tmp_path) == "CreativeML Open RAIL-M"
    (tmp_path / "genie.json").write_text(json.dumps({"license": "MIT"}))
    assert model_licence(tmp_path) == "MIT"
