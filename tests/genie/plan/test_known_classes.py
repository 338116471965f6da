"""The check that a generator knows the classes that it is to render."""

import json
from pathlib import Path

import pytest

from genie.core.errors import InvalidValueError
from genie.plan.known_classes import (
    check_classes,
    needs_known_classes,
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


def test_error_names_the_classes_and_three_remedies():
    with pytest.raises(InvalidValueError) as error:
        require_known(["plane", "cat", "trouser"], KNOWN, {}, model=Path("zoo/generator"))
    text = str(error.value)
    assert error.value.argument == "model"
    assert text.startswith("model zoo/generator does not know 2 of the classes: 'cat', 'plane' (")
    assert "T-shirt/top, T-shirt, ankle boot, trouser" in text
    assert "`genie fetch stable-diffusion-v1-5/stable-diffusion-v1-5 models/sd15` (5.5 GB" in text
    assert "CreativeML OpenRAIL-M" in text
    assert "(none, weak, strong, cutmix, mixup); or" in text
    assert text.endswith('or insist by setting `unknown_classes` to "allow"')
    assert "names.csv" not in text
    assert "\n" not in text


def test_another_word_for_a_known_class_is_suggested():
    hint = r"if 'trousers' means 'trouser', give it that name in names\.csv"
    with pytest.raises(InvalidValueError, match=hint):
        require_known(["trousers"], KNOWN, {}, model=Path("m"))


def test_many_unknown_classes_are_counted():
    with pytest.raises(InvalidValueError, match=r"5 of the classes: '0', '1', '2', \.\.\. \("):
        require_known("01234", KNOWN, {}, model=Path("m"))


def test_methods_that_render_a_class_by_its_name_need_to_know_it():
    assert [m for m in ("genie", "txt2img", "cap2aug") if not needs_known_classes(m)] == []
    assert [m for m in ("weak", "mixup", "da-fusion") if needs_known_classes(m)] == []


def test_classes_are_checked_against_the_card_of_the_model(tmp_path, caplog):
    (tmp_path / "genie.json").write_text(json.dumps({"classes": ["trouser"]}))

    def check(labels, method="genie", names=None):
        check_classes(lambda: labels, method=method, model=tmp_path, names=names or {})

    check(["trouser"])
    check(["t1"], names={"t1": "trouser"})
    assert caplog.text == ""
    check(["plane"], method="da-fusion")
    assert (
        "trained on trouser alone, so the tokens that da-fusion learns for 'plane'" in caplog.text
    )
    with pytest.raises(InvalidValueError, match="does not know 1 of the classes: 'plane'"):
        check(["plane"])


@pytest.mark.parametrize(("method", "card"), [("genie", {"steps": 3}), ("mixup", {"classes": []})])
def test_labels_are_not_read_where_there_is_nothing_to_check(tmp_path, method, card):
    (tmp_path / "genie.json").write_text(json.dumps(card))
    check_classes(lambda: pytest.fail("read"), method=method, model=tmp_path, names={})
