import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from genie.plan.methods import METHODS
from stages.validate import main
from tests.scratch import call, checks_of_models, commit

ROOT = Path(__file__).parents[2]


def run(tmp_path: Path, **changes: object) -> Result:
    """`validate` with the committed parameters, but for changes such as `noise__r=0.7`."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        raw = raw | {section: raw[section] | {name: value} if name else value}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    (tmp_path / ".genie").mkdir(exist_ok=True)
    (tmp_path / ".genie/checked-models.json").write_text(checks_of_models())
    return CliRunner().invoke(main, ["--params", str(path), "--root", str(tmp_path)])


def test_valid_parameters_leave_a_constant_that_other_stages_depend_on(tmp_path):
    for seed in (0, 1):
        result = run(tmp_path, seed=seed)
        assert result.exit_code == 0, result.stderr
        assert (tmp_path / ".params.ok").read_text() == "params.yaml is valid\n"
    assert result.stdout == ("validate: all parameters are valid and all paths exist\n")


def test_mistake_ends_with_one_line_and_code_1(tmp_path):
    result = run(tmp_path, noise__r=1.7)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / ".params.ok").exists()


@pytest.mark.parametrize(
    "key",
    ["data.path", "generator.model", "classifier.backbone", "oracle.model", "filter.clip"],
)
def test_path_that_is_not_there_stops_before_any_work(tmp_path, key):
    result = run(tmp_path, **{key.replace(".", "__"): "models/nowhere"})
    assert result.exit_code == 1
    assert f"{key} must be an existing" in result.stderr
    assert "got 'models/nowhere'; " in result.stderr
    assert "genie fetch ID models/nowhere" in result.stderr


@pytest.mark.parametrize("key", ["classifier.backbone", "oracle.model"])
def test_model_with_random_weights_stops_before_any_work(tmp_path, key):
    folder = tmp_path / "model"
    shutil.copytree("zoo/oracle", folder)
    weights = load_file(folder / "model.safetensors")
    first = next(name for name in sorted(weights) if not name.startswith("classifier"))
    save_file(
        {name: value for name, value in weights.items() if name != first},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    result = run(tmp_path, **{key.replace(".", "__"): str(folder)})
    assert result.exit_code == 1
    assert f"Error: {key} must load" in result.stderr.splitlines()[-1]
    assert "its checkpoint lacks" in result.stderr.splitlines()[-1]
    assert not (tmp_path / ".params.ok").exists()


@pytest.mark.parametrize("missing", ["names.csv", "captions.csv", "contexts.csv"])
def test_file_that_the_folder_of_prompts_lacks_is_named(tmp_path, missing):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name in {"names.csv", "captions.csv", "contexts.csv"} - {missing}:
        (folder / name).touch()
    result = run(tmp_path, prompt__folder=str(folder))
    assert result.exit_code == 1
    assert (
        f"prompt.folder must contain names.csv, captions.csv and contexts.csv; {folder}/{missing}"
        in (result.stderr)
    )


@pytest.mark.parametrize("method", METHODS)
def test_ratio_of_a_method_that_compares_no_levels_is_reported(tmp_path, method):
    ratio = METHODS[method].ratio
    said = run(tmp_path, method=method, noise__r="ada").stdout
    assert ("; `noise.r` is" in said) == (ratio is not None)
    if ratio is not None:
        assert said.endswith(f"; `noise.r` is {ratio} for {method}, which compares no levels\n")
    assert "noise.r" not in run(tmp_path, method=method, noise__r=0.6).stdout


def test_images_edited_within_their_class_take_the_ratio_of_their_method(tmp_path):
    assert "`noise.r` is 0.7 for img2img" in run(tmp_path, method="img2img").stdout


def classes_of(tmp_path: Path, *names: str) -> str:
    for name in names:
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").touch()
    return str(tmp_path / "photos")


def test_classes_that_the_generator_does_not_know_stop_the_run(tmp_path):
    path = classes_of(tmp_path, "cat", "bag")
    result = run(tmp_path, data__path=path)
    assert result.exit_code == 1
    assert "zoo/generator does not know 1 of the classes: 'cat' (it knows" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / ".params.ok").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"generator__unknown_classes": "allow"},
        {"method": "strong"},
        {"method": "da-fusion"},
    ],
)
def test_each_remedy_for_unknown_classes_works(tmp_path, changes):
    result = run(tmp_path, data__path=classes_of(tmp_path, "cat", "bag"), **changes)
    assert result.exit_code == 0, result.stderr


def test_a_generator_without_a_list_of_classes_stops_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    path = classes_of(tmp_path, "cat", "bag")
    result = run(tmp_path, data__path=path, generator__model=str(tmp_path / "model"))
    assert result.exit_code == 0, result.stderr


def test_class_is_known_by_its_name_in_the_folder_of_prompts(tmp_path):
    shutil.copytree(ROOT / "prompts", tmp_path / "prompts")
    (tmp_path / "prompts/names.csv").write_text("class,name\nt_shirt,T-shirt\n")
    path = classes_of(tmp_path, "t_shirt", "Ankle_Boot")
    result = run(tmp_path, data__path=path, prompt__folder=str(tmp_path / "prompts"))
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"method": "strong", "noise__r": 0.7}, "noise.r has no effect with method strong"),
        ({"method": "txt2img", "noise__r": 0.7}, "noise.r has no effect with method txt2img"),
        (
            {"noise__r": 0.7, "noise__M": 9, "noise__low": 0.3},
            "noise.low, noise.M have no effect with noise.r 0.7",
        ),
        (
            {"classifier__steps": 9, "data__n_way": 3},
            "classifier.steps has no effect with classifier.head logistic; "
            "data.n_way has no effect with data.regime shots",
        ),
        (
            {"method": "strong", "prompt__template": "a {class}", "classifier__start": "scratch"},
            "prompt.template has no effect with method strong; "
            "classifier.start has no effect with classifier.head logistic",
        ),
        (
            {"sources__strategy": "all", "sources__top_k": 2},
            "sources.top_k has no effect with sources.strategy all",
        ),
        ({"noise__r": 0.7}, ""),
        ({"method": "strong"}, ""),
    ],
)
def test_changed_keys_without_effect_are_named(tmp_path, changes, note):
    for command in ("init -q", "config user.name T", "config user.email t@example.org"):
        call(tmp_path, "git", *command.split())
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    commit(tmp_path)
    result = run(tmp_path, **changes)
    assert result.exit_code == 0, result.stderr
    end = f"all paths exist; {note}\n" if note else "all paths exist\n"
    assert result.stdout.endswith(end)


@pytest.mark.parametrize(("method", "said"), [("genie", True), ("strong", False)])
def test_oracle_that_will_not_judge_the_images_is_warned_of_before_they_are_made(
    tmp_path, caplog, method, said
):
    path = classes_of(tmp_path, "bag", "Cantaloupe", "fig")
    allow = {"data__path": path, "generator__unknown_classes": "allow"}
    result = run(tmp_path, method=method, **allow)
    assert result.exit_code == 0, result.stderr
    warned = "does not know 2 of the classes, such as 'Cantaloupe', so generated images will not"
    assert (warned in caplog.text) == said


def test_oracle_that_knows_the_classes_is_not_warned_of(tmp_path, caplog):
    assert run(tmp_path).exit_code == 0
    assert "WARNING" not in caplog.text


@pytest.mark.parametrize("method", ["genie", "strong"])
@pytest.mark.parametrize(("lacks", "has"), [("train", "test"), ("test", "train")])
def test_class_that_only_one_split_has_is_found_from_names(tmp_path, method, lacks, has):
    for part in ("train", "test"):
        classes_of(tmp_path / part, "bag", "coat", *(["dress"] if part == has else []))
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / part / "photos").rename(tmp_path / "data" / part)
    result = run(tmp_path, data__path=str(tmp_path / "data"), method=method)
    assert result.exit_code == 1
    assert "data.path must have each class in both splits" in result.stderr
    assert f"class 'dress' is in {has} but has no images in {lacks}" in result.stderr
    assert not (tmp_path / ".params.ok").exists()


def test_class_folder_without_images_and_a_single_class_are_found_from_names(tmp_path):
    path = classes_of(tmp_path, "bag", "coat")
    (tmp_path / "photos/bag/1.png").unlink()
    assert "must have images in each class folder" in run(tmp_path, data__path=path).stderr
    (tmp_path / "photos/bag").rmdir()
    assert "at least 2 classes, but" in run(tmp_path, data__path=path).stderr
