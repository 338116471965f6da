from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import create_model

from genie.settings import MOVED, Data, Params, Section, check_params, read_yaml
from protocols import record
from protocols.record import FACTS, SCORES, Record, in_order, made_from, read_record, write_record
from protocols.specification import BASELINE, Protocol, Row, Setting, read_protocol, rows_of

ROOT = Path(__file__).parents[2]
BASE = read_yaml(ROOT / "params.yaml")
TABLES = sorted(path.parent for path in ROOT.glob("protocols/*/protocol.yaml"))


def digest(params: Params) -> str:
    return made_from(Row("one", "A", params, Path("work")))


@pytest.mark.parametrize("folder", TABLES, ids=lambda path: path.name)
def test_every_row_is_recorded_for_the_present_parameters_and_files(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    protocol = read_protocol(folder / "protocol.yaml")
    rows = rows_of(protocol, BASE, Path("work"))
    recorded = read_record(folder)
    assert list(recorded.digests()) == [(row.setting, row.name) for row in rows]
    tasks = {row.setting: row.params.data.tasks for row in rows}
    counts = recorded.scores.groupby(["setting", "row"])["task"].nunique()
    assert all(count == tasks[setting] for (setting, _), count in counts.items())
    for row in rows:
        if row.params.data.path.exists():  # photographs are fetched, not bundled
            assert recorded.digests()[row.setting, row.name] == made_from(row)


def test_new_parameter_with_a_neutral_default_reruns_no_row():
    before = digest(check_params(BASE, where="params.yaml"))
    wider = create_model("Data", __base__=Data, crop=(str, "centre"))
    larger = create_model("Params", __base__=Params, data=(wider, ...))
    assert digest(larger.model_validate(BASE)) == before
    named = BASE | {"data": BASE["data"] | {"crop": "centre"}}
    assert digest(larger.model_validate(named)) == before
    other = BASE | {"data": BASE["data"] | {"crop": "pad"}}
    assert digest(larger.model_validate(other)) != before


def test_renamed_parameter_reruns_no_row(monkeypatch):
    before = digest(check_params(BASE, where="params.yaml"))
    fields = {
        "support_sets" if name == "tasks" else name: (field.annotation, field)
        for name, field in Data.model_fields.items()
    }
    data: Any = create_model("Data", __base__=Section, **fields)
    renamed = create_model("Params", __base__=Params, data=(data, ...))
    values = {"support_sets" if k == "tasks" else k: v for k, v in BASE["data"].items()}
    after = renamed.model_validate(BASE | {"data": values})
    assert digest(after) != before
    moved = {"data.episodes": "data.support_sets", "data.tasks": "data.support_sets"}
    monkeypatch.setattr(record, "MOVED", MOVED | moved)
    assert digest(after) == before


def test_parameters_of_a_row_decide_its_digest():
    def of(**changes: object) -> str:
        table = Protocol(
            title="t", params={}, settings={"one": Setting()}, rows={"A": changes}, reference="A"
        )
        (row,) = rows_of(table, BASE, Path("work"))
        return made_from(row)

    assert len({of(), of(**{"noise.r": 0.7}), of(**{"data.shots": 3}), of(seed=1)}) == 4


def test_record_is_written_in_the_given_order_without_other_rows(tmp_path):
    names = ("B", BASELINE, "C", "A")
    scores = pd.DataFrame({"row": names, "accuracy": 0.5}).merge(
        pd.DataFrame({"setting": "one", "task": [0, 1]}), how="cross"
    )
    facts = pd.DataFrame([{"setting": "one", "row": row, "made_from": "1e5"} for row in "CBA"])
    full = Record(scores.reindex(columns=SCORES), facts.reindex(columns=FACTS).fillna(0))
    write_record(in_order(full, [("one", "A"), ("one", "B"), ("two", "A")]), tmp_path)
    found = read_record(tmp_path)
    assert list(found.scores["row"]) == [BASELINE, BASELINE, "A", "A", "B", "B"]
    assert found.digests() == {("one", "A"): "1e5", ("one", "B"): "1e5"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "tasks.csv"]
    nothing = in_order(full, [])
    assert len(nothing.scores) == len(nothing.facts) == 0
