"""The reference row of each table, run again on three tasks without an image of an earlier run."""

from dataclasses import replace
from pathlib import Path

import pytest

from genie.cli.reproduction import TOLERANCE
from genie.core.errors import MissingFileError
from genie.settings import read_yaml, require_paths
from protocols.execution import run_row
from protocols.record import read_record
from protocols.specification import read_protocol, rows_of
from tests.scratch import ROOT

TASKS = 3
TABLES = sorted(path.parent for path in ROOT.glob("protocols/*/protocol.yaml"))


@pytest.mark.parametrize("folder", TABLES, ids=lambda path: path.name)
def test_reference_row_has_its_recorded_accuracies(folder: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    protocol = read_protocol(folder / "protocol.yaml")
    rows = rows_of(protocol, read_yaml(Path("params.yaml")), tmp_path / "work")
    row = next(row for row in rows if row.name == protocol.reference)
    data = row.params.data.model_copy(update={"tasks": min(TASKS, row.params.data.tasks)})
    row = replace(row, params=row.params.model_copy(update={"data": data}))
    try:
        require_paths(row.params)
    except MissingFileError as error:
        pytest.skip(f"{error}: `make evidence` fetches it")
    scores, _ = run_row(row)
    names = ["setting", "row", "task"]
    recorded = read_record(folder).scores.set_index(names)["accuracy"]
    again = scores.set_index(names)["accuracy"]
    assert len(again) == 2 * row.params.data.tasks
    gaps = (again - recorded[again.index]).groupby("row").mean()
    assert gaps.abs().max() <= TOLERANCE
