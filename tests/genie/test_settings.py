import re
from pathlib import Path

import pytest
import yaml

from genie.choose.filters import RULES
from genie.classify.classifier import FINETUNE
from genie.classify.confusion import STRATEGIES
from genie.classify.finetune import STARTS
from genie.classify.heads import HEADS
from genie.classify.losses import LOSSES
from genie.classify.settings import TrainingSettings
from genie.cli.messages import in_keys, keys_by_argument, line_in_keys
from genie.core.errors import GenieError, InvalidValueError
from genie.data.prompts import Prompts
from genie.data.tasks import REGIMES, Draws
from genie.plan.augmentation import RULES as plan_rules
from genie.plan.augmentation import Augmentation, FilterSettings
from genie.plan.levels import Levels
from genie.plan.methods import METHODS
from genie.render.model_info import RenderSettings
from genie.settings import (
    MOVED,
    Params,
    Section,
    augmentation,
    check_params,
    draws,
    levels,
    prompts,
    read_params,
    read_yaml,
    render_settings,
    training_recipe,
    training_settings,
)

ROOT = Path(__file__).parents[2]


def params(**changes: dict) -> Params:
    """The committed parameters with some keys of some sections changed."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, keys in changes.items():
        raw[section] = raw[section] | keys
    return check_params(raw, where="params.yaml")


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
        ("filter.min_text", 2, r"filter\.min_text.*got 2"),
        ("prompt.template", "a photo", r'prompt\.template must contain "\{class\}"'),
        ("prompt.template", ["{class}", "a photo"], r"must contain .* got 'a photo'"),
        ("prompt.template", [], r"prompt\.template"),
        ("data.shots", 0, r"data\.shots.*got 0"),
        ("seed", -1, r"seed.*got -1"),
        ("seed", 2**32, r"seed.*less than 4294967296"),
        ("data.size", 100_000, r"data\.size.*8192, got 100000"),
        ("augment.per_class", 10**12, r"augment\.per_class.*1000000, got 1000000000000"),
        ("generator.guidance_scale", float("inf"), r"generator\.guidance_scale.*finite"),
        ("oracle.model", "a\0b", r"oracle\.model: .* valid for the file system, got 'a.x00b'"),
        ("oracle.model", "a" * 300, r"oracle\.model: .* valid for the file system"),
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


@pytest.mark.parametrize("old", MOVED)
def test_key_of_an_earlier_version_names_its_replacement(tmp_path, old):
    with pytest.raises(GenieError, match=rf"{re.escape(old)} is no longer a key") as caught:
        read_params(changed(tmp_path, old, 1))
    message = str(caught.value)
    assert MOVED[old] in message
    if constant := re.search(r"the constant (\w+) of (\S+\.py)", message):
        assert re.search(rf"^{constant[1]} = ", (ROOT / constant[2]).read_text(), re.MULTILINE)
    elif file := re.search(r"(\w+\.csv) in prompt\.folder", message):
        assert (ROOT / read_params(ROOT / "params.yaml").prompt.folder / file[1]).is_file()
    else:
        new = re.search(r"use (\w+)\.(\w+)", message)
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
    with pytest.raises(GenieError, match=r"params\.yaml (must contain sections|is not valid YAML)"):
        read_params(tmp_path / "params.yaml")


def test_missing_parameter_file_is_named(tmp_path):
    with pytest.raises(GenieError, match=r"none\.yaml does not exist"):
        read_params(tmp_path / "none.yaml")


# Values of the library


def test_training_takes_the_parameters_of_the_classifier_and_the_seed():
    own = {"start": "scratch", "steps": 7, "batch_size": 3, "learning_rate": 0.5, "loss": "bal-bce"}
    found = training_settings(params(classifier=own))
    for key, value in own.items():
        assert getattr(found, key) == value
    assert found.head == "logistic"
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
    changes = {
        "prompt": own | {"folder": str(tmp_path)},
        "classifier": {"head": "finetune", "start": "prompts"},
    }
    prompt = training_settings(params(**changes)).prompt_of
    assert prompt("n02084071") == "dog, close, a type of animal"
    assert prompt("golden_retriever") == "golden retriever, close, a type of animal"


def test_images_per_class_follow_the_strategy_and_the_classes_to_augment():
    labels = ["a"] * 3 + ["b"] * 25
    few = {"per_class": 4, "classes": "few"}
    for changes, expected in (
        ({"augment": {"per_class": 4}}, {"a": 4, "b": 4}),
        ({"augment": few}, {"a": 4}),
        ({"sources": {"strategy": "all"}}, {"a": 25, "b": 3}),
    ):
        assert training_recipe(params(**changes)).per_class(labels) == expected
        assert augmentation(params(**changes)).images_per_class(labels) == expected


@pytest.mark.parametrize("method", METHODS)
def test_training_on_an_augmented_set_follows_its_method(method):
    chosen = METHODS[method]
    recipe = training_recipe(params(), chosen, 3)
    assert (recipe.copier, recipe.mixer, recipe.real_passes) == (chosen.copier, chosen.mixer, 3)
    assert recipe.mixes_with_sources == chosen.mixes_with_sources
    baseline = training_recipe(params())
    assert (baseline.copier, baseline.mixer, baseline.real_passes) == ("weak", None, 1)


def test_files_of_prompts_are_read_only_for_a_method_that_needs_them(tmp_path):
    for name in ("names", "captions", "contexts"):
        header = (ROOT / f"prompts/{name}.csv").read_text().splitlines()[0]
        (tmp_path / f"{name}.csv").write_text(f"{header}\n")
    folder = {"folder": str(tmp_path)}
    for method, chosen in METHODS.items():
        raw = yaml.safe_load((ROOT / "params.yaml").read_text())
        raw |= {"method": method, "prompt": raw["prompt"] | folder}
        found = prompts(check_params(raw, where="params.yaml"))
        assert (found.captions is not None) == chosen.captions
        assert (found.contexts is not None) == chosen.contexts


def test_values_built_of_the_committed_parameters_are_the_library_s_defaults():
    """A call of the library does what the pipeline does, where nothing else is said."""
    committed = params()
    assert levels(committed) == Levels()
    assert render_settings(committed) == RenderSettings()
    own = augmentation(committed)
    folder = {"clip": committed.filter.clip}
    same = Augmentation(prompts=own.prompts, filter=FilterSettings(**folder))
    assert own == same
    assert (own.prompts.templates, own.prompts.superclass, own.prompts.negative) == (
        Prompts().templates,
        Prompts().superclass,
        Prompts().negative,
    )
    expected = TrainingSettings(backbone=committed.classifier.backbone)
    assert training_settings(committed) == expected


def test_every_key_of_the_data_decides_how_tasks_are_drawn():
    changes = {"regime": "episodes", "shots": 3, "tasks": 7, "imbalance": 2.0}
    changes |= {"n_way": 4, "n_query": 6, "pool": 9}
    assert draws(params(data=changes)) == Draws(seed=0, **changes)


def test_filter_rules_that_can_be_named_are_those_that_are_defined():
    assert set(plan_rules) == set(RULES)


# Messages


def test_every_argument_is_set_by_one_key_and_every_key_names_an_argument():
    found = keys_by_argument()
    assert len(found) == len(set(found.values())) == len(list(leaves(Params)))


def leaves(section: type[Section]) -> list[str]:
    """The names of all keys of a section and its sections."""
    names = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        inner = isinstance(kind, type) and issubclass(kind, Section)
        names += leaves(kind) if inner else [name]
    return names


def test_message_of_the_library_names_keys_on_the_command_line():
    error = InvalidValueError(
        "must be below `high` (0.9)", argument="low", value=0.95, remedy="or change `sources`"
    )
    assert in_keys(error) == (
        "noise.low must be below `noise.high` (0.9), got 0.95; or change `sources.strategy`"
    )
    assert line_in_keys("`embedder` is old, `nothing` is") == (
        "`classifier.backbone` is old, `nothing` is"
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Levels(low=1.0, high=0.9), "noise.low must be below `noise.high`"),
        (lambda: Augmentation(per_class=0), "augment.per_class must be at least 1, got 0"),
        (lambda: FilterSettings(attempts=0), "filter.attempts must be at least 1, got 0"),
    ],
)
def test_argument_of_a_value_is_translated_to_its_key(build, message):
    with pytest.raises(GenieError) as caught:
        build()
    assert in_keys(caught.value).startswith(message)
