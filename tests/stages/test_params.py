import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from genie.errors import GenieError
from genie.filters import RULES
from genie.methods import METHODS
from stages.params import Filter, Params, read_params
from stages.validate import main as validate

ROOT = Path(__file__).parent.parent.parent


def changed(tmp_path: Path, key: str, value: object) -> Path:
    """The repository's params.yaml with one key changed."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    *sections, name = key.split(".")
    at = raw
    for section in sections:
        at = at[section]
    at[name] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


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
        (
            "classifier.initial",
            "prompts",
            r'classifier\.initial "prompts" .* got logistic and true',
        ),
        ("filter.attempts", 0, r"filter\.attempts.*got 0"),
        ("filter.least_text", 2, r"filter\.least_text.*got 2"),
        ("prompt.template", "a photo", r'prompt\.template must contain "\{class\}"'),
        ("prompt.template", ["{class}", "a photo"], r'must contain "\{class\}", got "a photo"'),
        ("prompt.template", [], r"prompt\.template"),
        ("data.shots", 0, r"data\.shots.*got 0"),
        ("seed", -1, r"seed.*got -1"),
    ],
)
def test_bad_value_is_named_with_its_rule(tmp_path, key, value, message):
    with pytest.raises(GenieError, match=message):
        read_params(changed(tmp_path, key, value))


def test_every_method_and_rule_of_the_library_can_be_named():
    def choices(section: type, key: str) -> set[str]:
        return set(re.findall("'([^']+)'", str(section.model_fields[key].annotation)))

    assert choices(Params, "method") == set(METHODS)
    assert choices(Filter, "rule") == set(RULES)


def test_missing_parameter_file_is_named(tmp_path):
    with pytest.raises(GenieError, match=r"none\.yaml does not exist"):
        read_params(tmp_path / "none.yaml")


def test_stage_ends_with_one_line_and_code_1(tmp_path):
    path = changed(tmp_path, "noise.r", 1.7)
    result = CliRunner().invoke(validate, ["--params", str(path), "--root", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / ".params.ok").exists()


@pytest.mark.parametrize(
    "key",
    ["data.path", "generator.model", "classifier.backbone", "oracle.model", "filter.clip"],
)
def test_path_that_is_not_there_stops_before_any_work(tmp_path, key):
    path = changed(tmp_path, key, "models/nowhere")
    result = CliRunner().invoke(validate, ["--params", str(path), "--root", str(tmp_path)])
    assert result.exit_code == 1
    assert f"{key} must be" in result.stderr
    assert "models/nowhere, not there" in result.stderr
    assert "genie fetch ID models/nowhere" in result.stderr
