import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from genie.classify.backbone import load_backbone
from genie.generate.model import load_generator
from genie.generate.renderer import Cost, Renderer
from genie.generate.request import Request, Wanted
from genie.generate.search import Landmarks
from genie.tables import IMAGES, TASKS, write_images, write_table
from stages.generate import main, warn_of_shortfall, write_cost
from stages.shared.generation import ratios_of, rule_of, search
from stages.shared.params import Params

BASE = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())


def params(method: str = "genie", rule: str | None = None, **noise) -> Params:
    changes = {
        "method": method,
        "noise": BASE["noise"] | noise,
        "filter": BASE["filter"] | {"rule": rule},
    }
    return Params.model_validate(BASE | changes)


@pytest.fixture(scope="module")
def renderer(tiny_sd_folder, source_images, tmp_path_factory) -> Renderer:
    generator = load_generator(tiny_sd_folder, device="cpu", compile=False)
    store = tmp_path_factory.mktemp("store")
    return Renderer(generator, 12, 3.0, 16, source_images, store)


@pytest.mark.parametrize(
    ("method", "noise", "full", "steps"),
    [
        ("genie", {"search": "exact"}, 12, {12}),
        ("genie", {"search": "preview"}, 12, {10, 12}),
        ("genie", {"search": "preview"}, 10, {10}),
        ("genie", {"search": "preview", "r": 0.7}, 12, {12}),
        ("img2img", {"search": "preview"}, 12, {12}),
        ("txt2img", {"search": "preview"}, 12, {12}),
    ],
)
def test_levels_are_compared_by_previews_only_where_there_is_a_choice(
    renderer, source_images, method, noise, full, steps
):
    asked = params(method, **noise)
    source = next(iter(source_images))
    first = Request(source, "bag", "coat", "a photo of a coat", "", 0.5, 0, 0, "")
    wanted = Wanted(0, tuple(replace(first, r=r) for r in ratios_of(asked)))
    backbone = load_backbone(Path("zoo/backbone"))
    axis = np.eye(2, backbone.model.config.hidden_sizes[-1])
    marks = Landmarks(backbone, {source: axis[0]}, {(0, "coat"): axis[1]})
    (found,), _ = search(asked, [wanted], replace(renderer, steps=full), marks)
    assert set(found.steps) == steps
    assert found.steps[found.chosen] == full


@pytest.mark.parametrize(
    ("method", "noise", "ratios"),
    [
        ("genie", {}, (0.5, 0.6, 0.7, 0.8, 0.9)),
        ("genie", {"M": 3, "high": 0.7}, (0.5, 0.6, 0.7)),
        ("genie", {"r": 0.7}, (0.7,)),
        ("img2img", {}, (0.7,)),
        ("img2img", {"r": 0.3}, (0.3,)),
        ("da-fusion", {}, (0.7,)),
        ("cap2aug", {}, (0.7,)),
        ("diff-mix", {}, (0.8,)),
        ("diffusemix", {}, (0.5,)),
    ],
)
def test_own_class_sources_take_one_ratio_where_ada_is_asked_for(method, noise, ratios):
    assert ratios_of(params(method, **noise)) == pytest.approx(ratios)


@pytest.mark.parametrize(
    ("method", "rule", "expected"),
    [
        ("genie", None, "none"),
        ("diffcore-mix", None, "cosine"),
        ("real-guidance", None, "clip"),
        ("diffcore-mix", "none", "none"),
        ("genie", "clip", "clip"),
    ],
)
def test_rule_is_the_methods_own_unless_one_is_asked_for(method, rule, expected):
    assert rule_of(params(method, rule)) == expected


def test_tracked_cost_is_the_same_whatever_the_store_held(tmp_path):
    counts = {"images": 3, "rejected": 2, "short": 1}
    write_cost(tmp_path, Cost(6, 0, 6, 60, 60, 9.126, 16), **counts)
    first = (tmp_path / "metrics/cost.json").read_bytes()
    run = json.loads((tmp_path / ".genie/runs/rendering.json").read_text())
    assert (run["rendered"], run["seconds"], run["batch_size"]) == (6, 9.13, 16)
    write_cost(tmp_path, Cost(6, 6, 0, 60, 0, 0.5, 8), **counts)
    assert (tmp_path / "metrics/cost.json").read_bytes() == first
    assert json.loads(first) == {"needed": 6, "guided_steps_needed": 60, **counts}
    run = json.loads((tmp_path / ".genie/runs/rendering.json").read_text())
    assert (run["found"], run["rendered"], run["guided_steps_rendered"]) == (6, 0, 0)


@pytest.mark.parametrize("short", [0, 2])
def test_missing_images_are_warned_of(short, caplog):
    warn_of_shortfall(params(rule="clip"), short, 5)
    assert len(caplog.messages) == (1 if short else 0)
    assert ("2 of 5 images were rejected in all 3 attempts" in caplog.text) == bool(short)


def test_class_that_came_after_the_check_of_the_parameters_stops_before_models_are_loaded(tmp_path):
    rows = [("a", "bag", b""), ("b", "cat", b"")]
    write_images(pd.DataFrame(rows, columns=list(IMAGES)), tmp_path / "data/prepared/support")
    tasks = [(0, "support", image, label) for image, label, _ in rows]
    table = pd.DataFrame(tasks, columns=list(TASKS))
    write_table(table, tmp_path / "data/prepared/tasks.csv", TASKS)
    result = CliRunner().invoke(main, ["--root", str(tmp_path)])
    assert result.exit_code == 1
    assert "zoo/generator does not know 1 of the classes: 'cat'" in result.stderr
