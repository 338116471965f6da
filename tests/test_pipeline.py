"""dvc.yaml against the code it runs: what a stage imports and which parameters it reads."""

import ast
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from genie.data.prompts import slug
from genie.settings import Params, Section, check_params, read_yaml
from stages import (
    analyse,
    evaluate,
    generate,
    prepare,
    retrain,
    select_sources,
    train_baseline,
    validate,
)
from tests.scratch import call, commit, contents

ROOT = Path(__file__).parent.parent
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = PIPELINE["stages"]
MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        validate,
        prepare,
        train_baseline,
        select_sources,
        generate,
        retrain,
        evaluate,
        analyse,
    )
}

SETTINGS = "genie/settings.py"
UNLISTED = ("genie/cli", "genie/progress.py", "stages/runner.py")
"""What no stage lists, because it cannot change a result: the command line, progress, signals, and
the translation of messages."""


def statements(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes below some nodes, except for imports that only type checkers see."""
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from statements(ast.iter_child_nodes(node))


def imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Dotted names that some code imports; of `from a import b` both a and a.b."""
    for node in statements(nodes):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parsed(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text()).body


def is_unlisted(path: Path) -> bool:
    return path.relative_to(ROOT).as_posix().startswith(UNLISTED)


def reached(path: Path) -> set[Path]:
    """The file and every file of this repository that its results depend on through imports."""
    found, names, left = set(), set(), [path]
    while left:
        file = left.pop()
        found.add(file)
        body = parsed(file)
        if file == ROOT / SETTINGS:  # the values are followed one by one below
            body = [node for node in body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        names |= {*imports(body), *imports(parts_of_settings(names))}
        modules = {ROOT / (name.replace(".", "/") + ".py") for name in names}
        left = [m for m in modules - found if m.is_file() and not is_unlisted(m)]
    return found


def parts_of_settings(names: set[str]) -> list[ast.FunctionDef]:
    """The functions of genie/settings.py that are imported, and those that they call."""
    functions = {n.name: n for n in parsed(ROOT / SETTINGS) if isinstance(n, ast.FunctionDef)}
    left = [name for name in functions if f"genie.settings.{name}" in names]
    used: set[str] = set()
    while left:
        name = left.pop()
        used.add(name)
        called = {n.id for n in ast.walk(functions[name]) if isinstance(n, ast.Name)}
        left += sorted((called & functions.keys()) - used)
    return [functions[name] for name in sorted(used)]


def unit(path: Path) -> str:
    """What dvc.yaml lists for a file: the room of genie/ that it is in, or else itself."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2] if parts[0] == "genie" else parts)


def code(name: str) -> list[str]:
    """The code that a stage lists in dvc.yaml."""
    return [d for d in STAGES[name]["deps"] if d.startswith(("genie", "stages"))]


def test_imports_are_absolute():
    files = [*ROOT.glob("stages/*.py"), *ROOT.glob("genie/**/*.py")]
    relative = [
        f"{path}:{node.lineno}"
        for path in files
        for node in statements(parsed(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert len(files) > 80
    assert relative == []


def test_the_stages_here_are_those_of_the_pipeline_in_its_order():
    assert list(MODULES) == list(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_stage_lists_exactly_the_rooms_and_files_that_it_imports(name):
    files = reached(ROOT / f"stages/{name}.py")
    assert sorted(code(name)) == sorted({unit(path) for path in files})


def test_values_of_the_settings_are_followed_to_the_rooms_that_define_them():
    """A stage that takes a value imports its room itself, so that the room is listed."""
    for value, room in (("draws", "data"), ("levels", "plan"), ("training_recipe", "classify")):
        found = set(imports(parts_of_settings({f"genie.settings.{value}"})))
        assert any(name.startswith(f"genie.{room}.") for name in found)


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_lists_a_file_inside_a_room(name):
    rooms = {path.parent.name for path in ROOT.glob("genie/*/__init__.py")}
    inside = [d for d in code(name) if len(Path(d).parts) > 2 and Path(d).parts[1] in rooms]
    assert rooms >= {"data", "classify", "plan", "render"}
    assert inside == []


@pytest.mark.parametrize("name", ["genie", "stages"])
def test_packages_that_no_stage_lists_import_nothing_that_is_listed(name):
    body = [n for n in parsed(ROOT / name / "__init__.py") if not isinstance(n, ast.FunctionDef)]
    modules = [ROOT / (module.replace(".", "/") + ".py") for module in imports(body)]
    assert [m for m in modules if m.is_file() and not is_unlisted(m)] == []


def test_pipeline_is_short_enough_to_read():
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 215


def test_every_stage_waits_for_the_check_of_the_parameters():
    assert [n for n in STAGES if ".params.ok" not in STAGES[n]["deps"]] == ["validate"]


def test_only_evaluate_depends_on_the_query_images():
    users = [n for n in STAGES if "data/prepared/query" in STAGES[n]["deps"]]
    assert users == ["evaluate"]


def test_the_check_depends_on_every_section():
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert set(STAGES["validate"]["params"]) == set(sections)


def test_what_editors_plot_is_written_by_a_stage():
    """The VS Code extension and `dvc plots show` read these paths."""
    written = set()
    for stage in STAGES.values():
        for out in (*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])):
            written.add(out if isinstance(out, str) else next(iter(out)))
    plotted = set()
    for plot in PIPELINE["plots"]:
        if isinstance(plot, str):
            plotted.add(plot)
        else:
            ((_, options),) = plot.items()
            plotted |= set(options["y"])
    assert plotted
    assert plotted <= written


class NotingParams:
    """Parameters that note in `read` the dotted name of each key that is looked at."""

    def __init__(self, section: Section, read: set[str], prefix: str = "") -> None:
        self._section, self._read, self._prefix = section, read, prefix

    def __getattr__(self, name: str) -> Any:
        computed = getattr(type(self._section), name, None)
        if isinstance(computed, property):
            assert computed.fget
            return computed.fget(self)
        value = getattr(self._section, name)
        if isinstance(value, Section):
            return NotingParams(value, self._read, f"{self._prefix}{name}.")
        self._read.add(self._prefix + name)
        return value


def leaves(section: type[Section] = Params, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys of params.yaml."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def listed(name: str) -> set[str]:
    """Dotted names of all keys that a stage lists, sections unfolded."""
    whole = STAGES[name]["params"]
    return {key for key in leaves() if key in whole or key.partition(".")[0] in whole}


# Together they take every branch on a parameter. Each has the method's and the regime's keys.
RUNS: dict[str, dict[str, dict[str, Any] | str]] = {
    "genie by previews": {
        "data": {"regime": "shots"},
        "noise": {"search": "preview", "M": 2},
        "filter": {"rule": "classifier", "attempts": 1},
    },
    "img2img, from scratch, long tail": {
        "data": {"regime": "longtail", "imbalance": 2},
        "method": "img2img",
        "classifier": {"head": "finetune", "start": "scratch"},
    },
    "cap2aug, from prompts, episodes": {
        "data": {"regime": "episodes", "n_way": 2, "n_query": 2},
        "method": "cap2aug",
        "classifier": {"head": "finetune", "start": "prompts", "backbone": "zoo/clip"},
    },
    "da-fusion": {"method": "da-fusion"},
    "diffcore-mix": {"method": "diffcore-mix", "filter": {"min_text": -1, "min_image": -1}},
    "diffusemix": {"method": "diffusemix"},
    "diff-mix": {"method": "diff-mix"},
    "real-guidance": {"method": "real-guidance"},
}


@pytest.fixture(scope="module")
def read(
    tiny_sd_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, set[str]]:
    """The keys that each stage reads in any of RUNS."""
    keys: dict[str, set[str]] = {name: set() for name in STAGES}
    for title, changes in RUNS.items():
        root = tmp_path_factory.mktemp(slug(title))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            patch.setenv("DVC_ROOT", str(root))
            run(root, small(changes, root, photos, tiny_sd_folder), keys, patch)
    return keys


def small(
    changes: dict[str, dict[str, Any] | str], root: Path, photos: Path, generator: Path
) -> dict[str, Any]:
    """The repository's parameters with changes, for a run of a second or two."""
    params = read_yaml(ROOT / "params.yaml")
    shutil.copytree(ROOT / "prompts", root / "prompts")
    tiny: dict[str, dict[str, Any]] = {
        "data": {"path": str(photos / "train"), "tasks": 2, "shots": 2},
        "augment": {"per_class": 1},
        "sources": {"top_k": 1},
        "prompt": {"folder": str(root / "prompts")},
        "generator": {"model": str(generator), "steps": 2, "compile": False, "batch_size": 8},
        "inversion": {"steps": 1},
        "classifier": {"steps": 1, "batch_size": 8},
    }
    for changed in (tiny, changes):
        for key, value in changed.items():
            params[key] = params[key] | value if isinstance(value, dict) else value
    return params


def run(
    root: Path, raw: dict[str, Any], keys: dict[str, set[str]], patch: pytest.MonkeyPatch
) -> None:
    """All stages, without the query images where only `evaluate` may see them."""
    params = check_params(raw, where="test")
    query, hidden = root / "data/prepared/query", root / "hidden"
    for name, stage in MODULES.items():
        if name == "evaluate":
            hidden.rename(query)
        recorded = NotingParams(params, keys[name])
        patch.setattr("stages.runner.read_params", lambda path, own=recorded: own)
        result = CliRunner().invoke(stage.main, ["--root", str(root)])
        assert result.exit_code == 0, f"{name}: {result.output}{result.exception!r}"
        if name == "prepare":
            write_captions(root)
        if name in ("prepare", "evaluate"):
            query.rename(hidden)


def write_captions(root: Path) -> None:
    """A caption for each support image, as cap2aug needs."""
    support = pd.read_csv(root / "data/prepared/tasks.csv").query("role == 'support'")
    captions = support[["image_id", "label"]].drop_duplicates().assign(caption="a thing")
    captions.to_csv(root / "prompts/captions.csv", index=False)


@pytest.mark.parametrize("name", STAGES)
def test_stage_lists_every_parameter_that_it_reads(name, read):
    assert read[name] - listed(name) == set()


@pytest.mark.parametrize("name", [name for name in STAGES if name != "validate"])
def test_stage_reads_every_parameter_that_it_lists(name, read):
    assert listed(name) - read[name] == set()
    assert set(STAGES[name]["params"]) <= {*leaves(), *Params.model_fields}


def test_files_are_checked_out_as_they_were_committed_where_git_converts_ends_of_lines(tmp_path):
    """With core.autocrlf, configurations of models had other hashes, and all stages ran again."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    origin.mkdir()
    for name in (".gitattributes", "params.yaml", "zoo/backbone/config.json"):
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, origin / name)
    call(origin, "git", "init", "--quiet")
    commit(origin)
    call(tmp_path, "git", "clone", "--quiet", "--config", "core.autocrlf=true", "origin", "clone")
    checked_out, committed = (
        {name: file for name, file in contents(place).items() if not name.startswith(".git/")}
        for place in (clone, origin)
    )
    assert checked_out == committed
    assert call(clone, "git", "status", "--porcelain") == ""
