import re
from pathlib import Path

import pytest
import yaml

from genie.classify.classifier import FINETUNE
from genie.classify.confusion import STRATEGIES
from genie.classify.finetune import STARTS
from genie.classify.heads import HEADS
from genie.classify.losses import LOSSES
from genie.data.tasks import REGIMES
from genie.errors import GenieError
from genie.generate.filters import RULES
from genie.generate.methods import METHODS
from stages.shared.params import _MOVED, Params, check_params, read_params, read_yaml

ROOT = Path(__file__).parents[3]


def changed(tmp_path: Path, key: str, value: object) -> Path:
    """The repository's params.yaml with one key changed."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(merged(raw, key, value)))
    return path


def merged(raw: dict, key: str, value: object) -> dict:
    """The parameters with one key changed."""
    section, _, name = key.partition(".")
    return raw | {section: raw[section] | {name: value} if name else value}


def test_committed_parameters_are_valid():
    assert isinstance(read_params(ROOT / "params.yaml"), Params)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("noise.r", 0, r'noise\.r must be "ada" or in \(0, 1\], got 0'),
        ("noise.r", 1.7, r'noise\.r must be "ada" or in \(0, 1\], got 1\.7'),
        ("noise.r", "adaa", r"noise\.r must be .* got 'adaa'"),
        ("noise.M", 1, r"noise\.M must be an integer of at least 2, got 1"),
        ("noise.low", 0.95, r"noise\.low must be below noise\.high, got 0\.95 and 0\.9"),
        ("augment.per_clas", 3, r"augment\.per_clas is not a known key; did you mean .*per_class"),
        ("method", "genei", r"method must be one of none, .*got 'genei'; did you mean genie\?"),
        ("filter.rule", "clop", r"filter\.rule must be one of none, .*'clop'; did you mean clip\?"),
        ("classifier.start", "prompts", r'classifier\.start "prompts" .* finetune, got logistic'),
        ("classifier.los", "bal-bce", r"classifier\.los is not a known key; did you mean .*loss"),
        ("data", "images", r"data.*got 'images'"),
        ("filter.attempts", 0, r"filter\.attempts.*got 0"),
        ("filter.least_text", 2, r"filter\.least_text.*got 2"),
        ("prompt.template", "a photo", r'prompt\.template must contain "\{class\}"'),
        ("prompt.template", ["{class}", "a photo"], r'must contain "\{class\}", got "a photo"'),
        ("prompt.template", [], r"prompt\.template"),
        ("data.shots", 0, r"data\.shots.*got 0"),
        ("seed", -1, r"seed.*got -1"),
        ("seed", 2**32, r"seed.*less than 4294967296"),
        ("data.size", 100_000, r"data\.size.*8192, got 100000"),
        ("augment.per_class", 10**12, r"augment\.per_class.*1000000, got 1000000000000"),
        ("generator.guidance_scale", float("inf"), r"generator\.guidance_scale.*finite"),
        ("oracle.model", "a\0b", r"oracle\.model: .* that a file system allows, got 'a.x00b'"),
        ("oracle.model", "a" * 300, r"oracle\.model: .* that a file system allows"),
        ("prompt.superclass", ["x" * 1000] * 9, r"prompt\.superclass.{1,900}$"),
    ],
)
def test_bad_value_is_named_with_its_rule(tmp_path, key, value, message):
    with pytest.raises(GenieError, match=message):
        read_params(changed(tmp_path, key, value))


@pytest.mark.parametrize(
    ("key", "library"),
    [
        ("classifier.head", [*HEADS, FINETUNE]),
        ("classifier.loss", LOSSES),
        ("classifier.start", STARTS),
        ("data.regime", REGIMES),
        ("filter.rule", RULES),
        ("method", METHODS),
        ("sources.strategy", STRATEGIES),
    ],
)
def test_choices_of_a_key_are_those_of_the_library(key, library):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    with pytest.raises(GenieError) as caught:
        check_params(merged(raw, key, "no such choice"), where="params.yaml")
    (listed,) = re.findall("must be one of (.*), got 'no such choice'", str(caught.value))
    assert sorted(listed.split(", ")) == sorted(library)
    raw["classifier"]["head"] = "finetune"  # which every start and loss goes with
    for choice in library:
        check_params(merged(raw, key, choice), where="params.yaml")


@pytest.mark.parametrize("old", _MOVED)
def test_key_of_an_earlier_version_names_what_took_its_place(tmp_path, old):
    with pytest.raises(GenieError, match=rf"{re.escape(old)} is no longer a key") as caught:
        read_params(changed(tmp_path, old, 1))
    message = str(caught.value)
    assert _MOVED[old] in message
    if constant := re.search(r"the constant (\w+) of (\S+\.py)", message):
        assert re.search(rf"^{constant[1]} = ", (ROOT / constant[2]).read_text(), re.MULTILINE)
    elif file := re.search(r"(\w+\.csv) in prompt\.folder", message):
        assert (ROOT / read_params(ROOT / "params.yaml").prompt.folder / file[1]).is_file()
    else:
        new = re.search(r"it is (\w+)\.(\w+)", message)
        assert new[2] in read_yaml(ROOT / "params.yaml")[new[1]]


PATHS = (
    *("data.path", "prompt.folder", "generator.model"),
    *("classifier.backbone", "oracle.model", "filter.clip"),
)


@pytest.mark.parametrize("key", PATHS)
def test_empty_path_is_refused(tmp_path, key):
    with pytest.raises(GenieError, match=rf"{re.escape(key)}: .*got an empty one"):
        read_params(changed(tmp_path, key, ""))


def test_all_mistakes_are_named_in_one_line(tmp_path):
    path = changed(tmp_path, "data.shots", 0)
    raw = yaml.safe_load(path.read_text())
    raw["noise"]["M"] = 1
    del raw["oracle"]
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(GenieError) as caught:
        read_params(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for words in ("data.shots", "noise.M must be an integer", "oracle is missing"):
        assert words in message


def test_one_template_and_a_list_of_them_read_alike(tmp_path):
    one = read_params(changed(tmp_path, "prompt.template", "a {class}")).prompt.templates
    several = read_params(changed(tmp_path, "prompt.template", ["a {class}", "{class}"]))
    assert one == ("a {class}",)
    assert several.prompt.templates == ("a {class}", "{class}")


@pytest.mark.parametrize("text", ["- a\n- b\n", "", "seed: [1\n", "seed: 2001-99-99", "\udc80"])
def test_file_that_holds_no_sections_is_named(tmp_path, text):
    (tmp_path / "params.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(GenieError, match=r"params\.yaml (must hold sections|is not valid YAML)"):
        read_params(tmp_path / "params.yaml")


def test_missing_parameter_file_is_named(tmp_path):
    with pytest.raises(GenieError, match=r"none\.yaml does not exist"):
        read_params(tmp_path / "none.yaml")
