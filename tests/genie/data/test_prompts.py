import hashlib
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie.core.errors import InvalidValueError, MissingFileError
from genie.data.prompts import (
    Prompts,
    Wording,
    class_name,
    is_slug,
    prompt_for,
    read_captions,
    read_contexts,
    read_names,
    require_captions,
    slug,
)


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
def test_class_name_is_inserted_literally(name):
    assert prompt_for(name) == f"a photo of a {name}"


def test_other_braces_of_the_template_stay():
    assert prompt_for("coat", template="{style} {class}") == "{style} coat"


def test_template_without_class_is_an_error():
    with pytest.raises(InvalidValueError, match=r"must contain \{class\}, got 'a photo'"):
        prompt_for("coat", template="a photo")


def test_prompts_without_settings_are_those_of_the_paper():
    assert Prompts().wording("coat") == ("a photo of a coat", "")
    assert Prompts(superclass="thing", negative="blurry").wording("coat", "i", 3) == (
        "a photo of a coat, a type of thing",
        "blurry",
    )


def test_any_template_without_class_is_an_error():
    with pytest.raises(InvalidValueError, match=r"template must contain \{class\}, got 'a photo'"):
        Prompts(templates=("{class}", "a photo"))


def test_templates_take_turns_and_names_are_readable():
    prompts = Prompts(("a photo of a {class}", "{class}"), names={"n02084071": "dog"})
    found = [prompts.wording("n02084071", turn=k).prompt for k in range(3)]
    assert found == ["a photo of a dog", "dog", "a photo of a dog"]
    assert prompts.wording("coat", "i", 5).prompt == "coat"


def test_caption_of_the_source_is_the_prompt_where_there_are_captions():
    prompts = Prompts(captions={"i": "a red coat on a chair"}, negative="blurry")
    assert prompts.wording("coat", "i") == ("a red coat on a chair", "blurry")
    assert prompts.wording("coat").prompt == "a photo of a coat"


CONTEXTS = (
    "class,prompt,negative\n"
    ',"a photo of a {class}, outdoors",\n'
    "coat,a worn {class},a shirt\n"
    "coat,a new {class},\n"
)


def test_contexts_of_the_class_take_turns_and_others_share_the_row_without_a_class(tmp_path):
    path = tmp_path / "contexts.csv"
    path.write_text(CONTEXTS)
    prompts = Prompts(contexts=read_contexts(path), names={"coat": "anorak"}, superclass="thing")
    found = [prompts.wording("coat", turn=k) for k in range(3)]
    assert found == [
        ("a worn anorak, a type of thing", "a shirt"),
        ("a new anorak, a type of thing", ""),
        ("a worn anorak, a type of thing", "a shirt"),
    ]
    assert prompts.wording("bag", turn=7) == (
        "a photo of a bag, outdoors, a type of thing",
        "",
    )


def test_negative_prompt_of_all_images_is_added_to_the_context():
    prompts = Prompts(contexts={"": [Wording("{class}", "a shirt")]}, negative="blurry")
    assert prompts.wording("bag").negative == "a shirt, blurry"


def test_class_without_any_context_is_named():
    prompts = Prompts(contexts={"coat": [Wording("{class}", "")]})
    with pytest.raises(InvalidValueError, match="contexts must have a row for 'bag'"):
        prompts.wording("bag")


def test_context_without_the_class_is_an_error(tmp_path):
    path = tmp_path / "contexts.csv"
    path.write_text("class,prompt,negative\ncoat,a photo,\n")
    with pytest.raises(InvalidValueError, match=r"contexts.csv: the prompt must contain \{class\}"):
        read_contexts(path)


def test_names_are_read_as_text(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text('class,name\n007,"bond, james"\nNone,nothing\n')
    assert read_names(path) == {"007": "bond, james", "None": "nothing"}
    path.write_text("class,name\n")
    assert read_names(path) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("klass,name\n", r"must have the column 'class'"),
        ("class,name\na,x\na,y\n", r"got 'a' twice"),
        ("class,name\na, \n", r"must give 'a' a name"),
    ],
)
def test_mistake_in_the_names_is_named(tmp_path, text, message):
    path = tmp_path / "names.csv"
    path.write_text(text)
    with pytest.raises(InvalidValueError, match=message):
        read_names(path)


def test_captions_are_read_by_image(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text('image_id,label,caption\ni,coat,"a red coat, worn"\n007,None,None\n')
    assert read_captions(path) == {"i": "a red coat, worn", "007": "None"}


def test_image_with_two_captions_is_named(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("image_id,label,caption\ni,coat,one\ni,coat,two\n")
    with pytest.raises(
        InvalidValueError, match=r"captions\.csv must list each image once, got i twice"
    ):
        read_captions(path)


def test_images_without_a_caption_are_counted_and_the_first_is_named():
    captions = {"a": "a coat", "b": "  "}
    require_captions(captions, ["a"])
    message = "captions must have .* but 2 of 3 support images have none, the first is b"
    with pytest.raises(InvalidValueError, match=message):
        require_captions(captions, ["a", "b", "c"])


@pytest.mark.parametrize("read", [read_names, read_captions, read_contexts])
def test_missing_file_of_the_prompts_is_named(tmp_path, read):
    with pytest.raises(MissingFileError, match=r"nowhere\.csv does not exist"):
        read(tmp_path / "nowhere.csv")


@given(st.text(), st.text())
def test_slugs_differ_where_names_differ(one, other):
    assert (slug(one) == slug(other)) == (one == other)


@given(st.text(max_size=100))
def test_slug_is_a_safe_folder_name(name):
    text = slug(name)
    assert 0 < len(text.encode()) <= 255
    assert not set(text) & set('/\\:*?"<>|\n\0')
    assert text.strip(". ") == text


@given(st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=60))
def test_class_name_undoes_every_short_slug(name):
    assert class_name(slug(name)) == unicodedata.normalize("NFC", name)
    assert is_slug(slug(name), unicodedata.normalize("NFC", name))


@pytest.mark.parametrize("name", ["ankle boot", "Grüner Apfel", "日本", "a, b & c", "it's", "50 €"])
def test_folder_carries_the_class_name(name):
    assert slug(name) == name


@pytest.mark.parametrize(
    "name", ["T-shirt/top", "Grünfink", "a, b", ".", "..", "50%", "%2F", "x.", " x "]
)
def test_class_name_undoes_slug(name):
    assert class_name(slug(name)) == name


@pytest.mark.parametrize("name", ["ankle boot", "Grüner Apfel", "50%", "日" * 300])
def test_folders_of_earlier_sets_are_known(name):
    quoted = quote(name, safe="")
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    assert is_slug(quoted if len(quoted) <= 200 else f"{quoted[:160]}%-{digest}", name)
    assert not is_slug(quote(f"{name}!", safe=""), name)


@pytest.mark.parametrize("name", ["CON", "nul", "aux.txt", "Com1", "LPT9.tar.gz"])
def test_name_that_windows_reserves_is_escaped_and_comes_back(name):
    assert slug(name) == f"%{ord(name[0]):02X}{name[1:]}"
    assert class_name(slug(name)) == name
    assert slug(f"{name[:2]}z") == f"{name[:2]}z"


def test_long_names_get_short_different_slugs():
    one, other = slug("日" * 300), slug("日" * 301)
    assert one != other
    assert max(len(one), len(other)) <= 255
