import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from genie.errors import GenieError
from protocols.run import (
    BASELINE,
    SHARES,
    Protocol,
    _runs,
    compare,
    markdown,
    override,
    read_protocol,
    run_row,
    run_rows,
    run_stages,
)
from stages.params import Params

ROOT = Path(__file__).parents[2]
PROTOCOLS = sorted(path.parent for path in ROOT.glob("protocols/*/protocol.yaml"))


def two_rows() -> Protocol:
    rows = {"A": {"noise.r": 0.5}, "B": {"noise.r": 0.7}}
    return Protocol("Title", {}, {"one": {}}, rows, {"one": [*rows]}, {}, "B", {"one": {"A": 0.25}})


def scores(accuracies: dict[str, list[float]]) -> pd.DataFrame:
    tables = [
        pd.DataFrame({"setting": "one", "row": row, "task": range(len(a)), "accuracy": a})
        for row, a in accuracies.items()
    ]
    return pd.concat(tables).assign(**dict.fromkeys(SHARES, np.nan))


FACTS = pd.DataFrame(
    {
        "setting": "one",
        "row": ["A", "B"],
        "label_consistency": [0.5, 1.0],
        "mean_r": [0.5, 0.7],
        "images": [3, 3],
        "rejected": [0, 1],
        "guided_steps": [75, 105],
    }
)


@pytest.mark.parametrize("folder", PROTOCOLS, ids=lambda p: p.name)
def test_every_row_of_every_protocol_is_a_valid_set_of_parameters(folder):
    base = yaml.safe_load((ROOT / "params.yaml").read_text())
    for overlay in [None, *folder.glob("paper.yaml")]:
        protocol = read_protocol(folder / "protocol.yaml", overlay)
        for setting, own in protocol.settings.items():
            for row in protocol.chosen[setting]:
                changes = {**protocol.params, **own, **protocol.rows[row]}
                Params.model_validate(override(base, changes))


@pytest.mark.parametrize("folder", PROTOCOLS, ids=lambda p: p.name)
def test_stage_names_what_the_protocol_reads_and_writes(folder):
    (stage,) = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"].values()
    place = f"protocols/{folder.name}"
    assert stage["cmd"] == f"python -m protocols.run {place}"
    assert {f"{place}/protocol.yaml", "protocols/run.py", "genie", "stages"} <= set(stage["deps"])
    assert [next(iter(out)) for out in stage["outs"]] == [
        f"{place}/{name}" for name in ("tasks.csv", "results.csv", "results.md", "results.png")
    ]


def test_setting_may_name_some_of_the_rows(tmp_path):
    path = tmp_path / "protocol.yaml"
    raw = {
        "title": "t",
        "params": {},
        "settings": {"one": {}, "two": {"seed": 1, "rows": ["B"]}},
        "rows": {"A": {}, "B": {}},
        "reference": "B",
    }
    path.write_text(yaml.safe_dump(raw))
    protocol = read_protocol(path)
    assert protocol.chosen == {"one": ["A", "B"], "two": ["B"]}
    assert protocol.settings == {"one": {}, "two": {"seed": 1}}
    path.write_text(yaml.safe_dump(raw | {"settings": {"two": {"rows": ["C"]}}}))
    with pytest.raises(GenieError, match=r"settings\.two: 'C' is not one of the rows"):
        read_protocol(path)


def test_overlay_goes_over_settings_and_under_rows(tmp_path):
    path, overlay = tmp_path / "protocol.yaml", tmp_path / "paper.yaml"
    raw = {
        "title": "t",
        "params": {"seed": 1},
        "settings": {"one": {"data.episodes": 5}},
        "rows": {"B": {"noise.r": 0.7}},
        "reference": "B",
    }
    path.write_text(yaml.safe_dump(raw))
    overlay.write_text(yaml.safe_dump({"seed": 2, "data.episodes": 600, "noise.r": 0.9}))
    base = yaml.safe_load((ROOT / "params.yaml").read_text())
    ((_, _, params, _),) = _runs(read_protocol(path, overlay), base, tmp_path)
    assert params["seed"] == 2
    assert params["data"]["episodes"] == 600
    assert params["noise"]["r"] == 0.7


def test_row_with_a_missing_path_stops_before_any_row_runs(tmp_path):
    protocol = replace(two_rows(), settings={"one": {"generator.model": "models/nowhere"}})
    base = yaml.safe_load((ROOT / "params.yaml").read_text())
    with pytest.raises(GenieError, match=r"generator\.model must be .*models/nowhere, not there"):
        run_rows(protocol, base, tmp_path)
    assert not list(tmp_path.iterdir())


def test_override_sets_dotted_keys_of_a_copy():
    params = {"seed": 0, "noise": {"r": "ada", "M": 5}}
    changed = override(params, {"noise.r": 0.7, "seed": 3})
    assert changed == {"seed": 3, "noise": {"r": 0.7, "M": 5}}
    assert params == {"seed": 0, "noise": {"r": "ada", "M": 5}}


def test_unknown_section_is_named():
    with pytest.raises(GenieError, match=r"nois\.r is not a parameter"):
        override({"noise": {"r": 1}}, {"nois.r": 0.7})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titel": "x"}, "titel is not a known key"),
        ({"reference": "C"}, "reference must be one of the rows of one, got 'C'"),
    ],
)
def test_mistake_in_a_protocol_is_named(tmp_path, change, message):
    raw = {"title": "t", "params": {}, "settings": {"one": {}}, "rows": {"A": {}}, "reference": "A"}
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(raw | change))
    with pytest.raises(GenieError, match=message):
        read_protocol(path)


def test_differences_are_paired_by_task():
    tasks = scores({BASELINE: [0.1, 0.5, 0.9], "A": [0.2, 0.6, 1.0], "B": [0.3, 0.5, 1.0]})
    table = compare(two_rows(), tasks, FACTS).set_index("row")
    # every task gains 0.1 by A: the interval of the paired gain has no width, the accuracy's does
    assert table.loc["A", ["gain", "gain_low", "gain_high"]].tolist() == pytest.approx([0.1] * 3)
    assert table.loc["A", "low"] < 0.2
    assert table.loc["B", "to_reference"] == 0
    assert table.loc["A", "to_reference"] == pytest.approx(-0.1 / 3 + 0.1 / 3)
    assert table.loc["A", "paper"] == 0.25
    assert table["n"].tolist() == [3, 3, 3]


def test_markdown_has_a_row_per_method_and_no_cell_without_n():
    tasks = scores({BASELINE: [0.1, 0.5], "A": [0.2, 0.6], "B": [0.3, 0.5]})
    text = markdown(two_rows(), compare(two_rows(), tasks, FACTS))
    assert "(n = 2 tasks)" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in rows] == ["| method", "| Weak", "| A", "| B"]
    assert len({line.count("|") for line in rows}) == 1
    assert rows[2].endswith("| 25.0 |")


def test_early_stages_run_again_only_where_their_parameters_change(tmp_path, monkeypatch):
    ran = []

    class Stage:
        def __init__(self, name: str) -> None:
            self.name, self.main = name, self

        def main(self, *args: object, **options: object) -> None:
            ran.append(self.name)

    for name in ("prepare", "train_baseline", "select_sources", "generate", "retrain", "evaluate"):
        stage = Stage(name)
        stage.main = type("Command", (), {"main": Stage.main, "name": name})()
        monkeypatch.setattr(f"protocols.run.{name}", stage)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    run_stages(params, tmp_path)
    run_stages(override(params, {"noise.r": 0.7, "sources.strategy": "random"}), tmp_path)
    run_stages(override(params, {"data.shots": 3}), tmp_path)
    late = ["select_sources", "generate", "retrain", "evaluate"]
    early = ["prepare", "train_baseline"]
    assert ran == [*early, *late, *late, *early, *late]
    assert json.loads((tmp_path / "upstream.json").read_text())[0]["data"]["shots"] == 3


def test_row_that_ran_before_is_read_and_not_run(tmp_path, monkeypatch):
    ran = []

    def stages(params, root):
        ran.append(params["noise"]["r"])
        (root / "metrics").mkdir(parents=True, exist_ok=True)
        scores = pd.DataFrame({"task": [0], "model": ["augmented"], "accuracy": [0.5]})
        scores.assign(**dict.fromkeys(SHARES)).to_csv(root / "metrics/tasks.csv", index=False)
        facts = {"label_consistency": None, "mean_r": 0.7, "images": 3}
        (root / "metrics/evaluate.json").write_text(json.dumps(facts))
        (root / "metrics/cost.json").write_text(
            json.dumps({"guided_steps_needed": 9, "rejected": 2})
        )

    monkeypatch.setattr("protocols.run.run_stages", stages)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    first = run_row(params, tmp_path)
    again = run_row(params, tmp_path)
    assert ran == ["ada"]
    assert again[1] == first[1] == {
        "label_consistency": None, "mean_r": 0.7, "images": 3, "guided_steps": 9, "rejected": 2
    }  # fmt: skip
    assert again[0]["accuracy"].tolist() == [0.5]
    assert np.isnan(again[0]["many"].mean())
    run_row(override(params, {"noise.r": 0.7}), tmp_path)
    assert ran == ["ada", 0.7]
