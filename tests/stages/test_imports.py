"""What a stage imports before its work: packages that are slow to import are left to the edge."""

import subprocess
import sys

import pytest

TORCH = ("torch", "transformers", "diffusers", "sklearn", "accelerate", "kornia", "matplotlib")
TRAINING = ("diffusers", "sklearn", "openvino", "ray", "datasets", "dvc")


def imported(code: str) -> set[str]:
    """The packages that are loaded in a new process after some code."""
    script = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("stage", ["validate", "prepare", "select_sources"])
def test_stages_without_a_model_do_not_import_torch(stage):
    assert not imported(f"import stages.{stage}") & {*TORCH, "dvc", "ray"}


def test_stages_with_a_backbone_import_no_package_of_a_fit_that_may_not_happen():
    stages = ("train_baseline", "retrain", "evaluate", "analyse")
    code = "\n".join(f"import stages.{stage}" for stage in stages)
    assert not imported(code) & set(TRAINING)


def test_garbage_is_collected_again_when_a_stage_has_been_imported():
    code = "import gc, stages; before = gc.isenabled(); import stages.validate"
    assert {"False", "True"} <= imported(f"{code}; print(before, gc.isenabled())")
