import pytest

from genie.errors import GenieError
from genie.prompts import prompt_for


def test_prompt_of_the_paper():
    assert prompt_for("coat") == "a photo of a coat"


def test_superclass_is_appended():
    assert (
        prompt_for("707-320", superclass="aircraft") == "a photo of a 707-320, a type of aircraft"
    )


def test_folder_name_is_made_readable():
    assert prompt_for("golden_retriever") == "a photo of a golden retriever"


@pytest.mark.parametrize(
    "name", ["{class}", "{0}", "a {b} \\1 $x", "Käuzchen", "小熊猫", "T-shirt"]
)
def test_class_name_is_taken_literally(name):
    assert prompt_for(name) == f"a photo of a {name}"


def test_other_braces_of_the_template_stay():
    assert prompt_for("coat", template="{style} {class}") == "{style} coat"


def test_template_without_class_is_an_error():
    with pytest.raises(GenieError, match=r"must contain \{class\}, got 'a photo'"):
        prompt_for("coat", template="a photo")
