import importlib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "benchmarks/dvc.yaml").read_text())["stages"]
OF_MACHINES = ("engine", "growth", "speed")


def test_every_record_has_a_stage_or_measures_a_machine():
    made = {next(iter(out)) for stage in STAGES.values() for out in stage["outs"]}
    for path in (ROOT / "benchmarks").iterdir():
        if path.suffix in (".csv", ".json", ".png"):
            measured = path.stem.startswith(OF_MACHINES)
            assert measured != (f"benchmarks/{path.name}" in made), path.name


def test_stages_depend_on_their_code_on_models_and_on_real_data_alone():
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"python -m benchmarks.{name}"
        assert f"benchmarks/{name}.py" in stage["deps"]
        assert hasattr(importlib.import_module(f"benchmarks.{name}"), "main")
        assert "params" not in stage
        for path in stage["deps"]:
            assert path.startswith(("benchmarks/", "data/bundled/", "data/cifar10", "zoo/"))
            assert path == "data/cifar10" or (ROOT / path).exists()
