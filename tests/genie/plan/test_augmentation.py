"""The settings of an augmentation set, and the messages for values out of range."""

import subprocess
import sys
from pathlib import Path

import pytest

from genie.choose.filters import RULES as DEFINED_RULES
from genie.core.errors import GenieError, InvalidValueError
from genie.plan.augmentation import RULES, Augmentation, FilterSettings
from genie.plan.levels import Levels
from genie.plan.methods import METHODS
from genie.settings import augmentation, read_params

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"method": "geni"},
            f"method must be one of {', '.join(METHODS)}, got 'geni'; did you mean genie?",
        ),
        ({"r": 1.3}, 'r must be "ada" or in (0, 1], got 1.3'),
        ({"r": 0}, 'r must be "ada" or in (0, 1], got 0'),
        ({"r": "adaptive"}, "r must be \"ada\" or in (0, 1], got 'adaptive'"),
        ({"per_class": 0}, "per_class must be at least 1, got 0"),
        ({"inversion_steps": 0}, "inversion_steps must be at least 1, got 0"),
        ({"classes": "al"}, "classes must be one of all, few, got 'al'; did you mean all?"),
        (
            {"unknown_classes": "alow"},
            "unknown_classes must be one of stop, allow, got 'alow'; did you mean allow?",
        ),
    ],
)
def test_a_value_out_of_range_is_an_error_of_its_argument(values, message):
    ((argument, value),) = values.items()
    with pytest.raises(ValueError) as error:  # noqa: PT011 - its text is compared
        Augmentation(**values)
    assert isinstance(error.value, InvalidValueError)
    assert str(error.value) == message
    assert (error.value.argument, error.value.value) == (argument, value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attempts": 0}, r"^attempts must be at least 1, got 0$"),
        ({"rule": "cosin"}, r"^rule must be one of none, .*; did you mean cosine\?$"),
        ({"min_text": 1.5}, r"^min_text must be in \[-1, 1\], got 1\.5$"),
        ({"min_image": float("nan")}, r"^min_image must be in \[-1, 1\], got nan$"),
    ],
)
def test_a_filter_setting_out_of_range_is_an_error_of_its_argument(values, message):
    ((argument, value),) = values.items()
    with pytest.raises(ValueError, match=message) as error:
        FilterSettings(**values)
    assert isinstance(error.value, GenieError)
    assert error.value.argument == argument
    assert error.value.value is value


def test_messages_are_one_line_that_names_argument_rule_value_and_remedy():
    with pytest.raises(InvalidValueError) as error:
        Augmentation(method="img2imgs")
    parts = error.value.argument, error.value.rule, error.value.value, error.value.remedy
    assert parts[0] == "method"
    assert parts[1].startswith("must be one of none, weak")
    assert parts[2:] == ("img2imgs", "did you mean img2img?")
    assert "\n" not in str(error.value)
    assert str(error.value) == f"{parts[0]} {parts[1]}, got {parts[2]!r}; {parts[3]}"


def test_rules_of_the_settings_are_those_that_are_defined():
    assert set(RULES) == set(DEFINED_RULES)
    assert {method.rule for method in METHODS.values()} <= set(RULES)


def test_the_rule_is_the_one_that_is_set_or_else_that_of_the_method():
    assert Augmentation().rule == "none"
    assert Augmentation(method="real-guidance").rule == "clip"
    chosen = FilterSettings(rule="classifier")
    assert Augmentation(method="real-guidance", filter=chosen).rule == "classifier"


def test_ratios_are_the_levels_or_the_one_that_is_given_or_that_of_the_method():
    levels = Levels(0.4, 0.8, 3)
    assert Augmentation(levels=levels).ratios == (0.4, 0.6, 0.8)
    assert Augmentation(levels=levels, r=0.7).ratios == (0.7,)
    assert Augmentation(levels=levels, method="img2img").ratios == (METHODS["img2img"].ratio,)


def test_defaults_are_those_of_params_yaml():
    """What `prompt.folder`, `filter.clip` and the model bring with them is left out."""
    given = augmentation(read_params(ROOT / "params.yaml"))
    usual = Augmentation()
    for name in ("method", "r", "levels", "per_class", "classes", "every_source", "seed"):
        assert getattr(given, name) == getattr(usual, name), name
    assert (given.inversion_steps, given.unknown_classes) == (
        usual.inversion_steps,
        usual.unknown_classes,
    )
    assert given.prompts.templates == usual.prompts.templates
    assert given.prompts.negative == usual.prompts.negative
    filters = [(f.rule, f.attempts, f.min_text, f.min_image) for f in (given.filter, usual.filter)]
    assert filters[0] == filters[1]


def test_planning_and_settings_import_neither_torch_nor_transformers():
    code = (
        "import sys\n"
        "import genie.plan.methods, genie.plan.augmentation, genie.settings\n"
        "print({'torch', 'transformers', 'diffusers'} & {*sys.modules})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "set()\n"
