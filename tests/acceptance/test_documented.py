"""Every command in README.md and docs/, in order, as a reader would enter them."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.documented import DOCUMENTS, script
from tests.scratch import ENVIRONMENT, ROOT, call

WITH_COMMANDS = [document for document in DOCUMENTS if script(document)]


@pytest.mark.parametrize(
    "document", [pytest.param(d, id=str(d.relative_to(ROOT))) for d in WITH_COMMANDS]
)
def test_commands_of_a_document_run_in_its_order(document: Path, cloned, bucket):
    commands = script(document)
    shutil.copytree(ROOT / "zoo/generator", cloned / "zoo/generator")  # README's snippet loads it
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", commands],
        cwd=cloned,
        env=os.environ | ENVIRONMENT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, f"{document}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    if "dvc queue start" in commands:
        wait_for_the_queue(cloned)


def wait_for_the_queue(place: Path) -> None:
    """Wait until all queued experiments have succeeded."""
    status = "Queued"
    while "Queued" in status or "Running" in status:
        time.sleep(5)
        status = call(place, "dvc", "queue", "status")
    assert "Failed" not in status
    assert "Success" in status
