import importlib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "benchmarks/dvc.yaml").read_text())["stages"]
OF_MACHINES = ("engine", "growth", "report", "scaling", "speed")


def outs(stage: dict) -> set[str]:
    return {next(iter(out)) for out in stage["outs"]}


def test_every_recorded_file_has_a_stage_or_measures_a_machine():
    recorded = {
        path.relative_to(ROOT).as_posix()
        for suffix in ("csv", "png", "json")
        for path in ROOT.glob(f"benchmarks/*.{suffix}")
    }
    of_machines = {name for name in recorded if Path(name).stem.split("-")[0] in OF_MACHINES}
    assert recorded - of_machines <= set().union(*map(outs, STAGES.values()))


def test_stages_run_benchmarks_on_what_is_there():
    for name, stage in STAGES.items():
        module = stage["cmd"].split()[2]
        assert module == f"benchmarks.{name.partition('-')[0]}"
        assert hasattr(importlib.import_module(module), "main")
        made = {"data/augmented", "data/prepared", "data/cifar10"}
        missing = [dep for dep in stage["deps"] if dep not in made and not (ROOT / dep).exists()]
        assert not missing, name
