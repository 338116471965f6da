"""Runs of single stages on few images."""

from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from click.testing import CliRunner, Result

from genie.core.tables import TASKS, read_images, write_images, write_table

ROOT = Path(__file__).parents[2]


def prepare(place: Path, labels: tuple[str, ...], *, tasks: int, shots: int) -> Path:
    """Write the support sets of tasks that share no image, from the bundled images."""
    table = read_images(ROOT / "data/bundled/train")
    table = table[table["label"].isin(labels)].groupby("label").head(tasks * shots)
    write_images(table, place / "data/prepared/support")
    (place / "data/prepared/LICENSE.txt").write_text("")
    table = table.assign(task=table.groupby("label").cumcount() // shots, role="support")
    write_table(table, place / "data/prepared/tasks.csv", TASKS)
    return place


def run(stage: ModuleType, place: Path, model: Path, /, **changes: Any) -> Result:
    """Run a stage with the committed parameters, but for a quick generator and some changes."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["generator"] |= {"model": str(model), "steps": 4}
    params["augment"] |= {"per_class": 4}
    for section, values in changes.items():
        params[section] = params[section] | values if isinstance(values, dict) else values
    (place / "params.yaml").write_text(yaml.safe_dump(params))
    arguments = ["--params", str(place / "params.yaml"), "--root", str(place)]
    runner = CliRunner(env={"DVC_ROOT": str(place)})
    return runner.invoke(stage.main, arguments, catch_exceptions=False)


def done(stage: ModuleType, place: Path, model: Path, /, **changes: Any) -> Result:
    """Run a stage, which succeeds."""
    result = run(stage, place, model, **changes)
    assert result.exit_code == 0, result.output
    return result
