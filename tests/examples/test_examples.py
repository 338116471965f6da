"""The notebook and the script of examples/ run as they are, and do what they say."""

import base64
import importlib.util
import io
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from genie.data.images import image_id

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/quickstart.ipynb"
SCRIPT = ROOT / "examples/train_your_own_loop.py"


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cell: NotebookNode) -> list[NotebookNode]:
    """What a cell shows, but for progress bars and remarks on stderr."""
    return [out for out in cell.outputs if out.get("name") != "stderr"]


def shown(cell: NotebookNode) -> str:
    """The text of a cell's outputs."""
    parts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs(cell)]
    return "\n".join(parts)


def kinds(cell: NotebookNode) -> list[set[str]]:
    """The forms in which a cell shows each of its outputs."""
    data: list[Mapping[str, Any]] = [out.get("data", {"text": ""}) for out in outputs(cell)]
    return [set(one) for one in data]


@pytest.fixture(scope="module")
def committed() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(committed: NotebookNode) -> NotebookNode:
    """The notebook after all of its cells have run in a new kernel."""
    notebook = nbformat.from_dict(committed)
    resources = {"metadata": {"path": str(ROOT)}}
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources)
    return client.execute()


def test_committed_notebook_is_valid_and_has_the_outputs_of_one_run(committed):
    nbformat.validate(committed)
    cells = code(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells[1:])
    assert {out.output_type for cell in cells for out in cell.outputs} == {
        "stream",
        "display_data",
    }
    assert all(out.get("name") != "stderr" for cell in cells for out in cell.outputs)
    assert NOTEBOOK.stat().st_size < 300_000
    text = NOTEBOOK.read_text()
    assert re.findall(r"/home/|/work/|/tmp/|0x[0-9a-f]{6}", text) == []


def test_committed_outputs_are_those_of_the_committed_cells(committed, executed):
    """Numbers may differ between processors; forms, words of prints and pictures' sizes do not."""
    for cell, again in zip(code(committed), code(executed), strict=True):
        assert kinds(again) == kinds(cell)
        for one, other in zip(outputs(cell), outputs(again), strict=True):
            assert re.findall(r"[A-Za-z]{2,}", one.get("text", "")) == re.findall(
                r"[A-Za-z]{2,}", other.get("text", "")
            )


def test_notebook_shows_a_level_near_its_target(executed):
    (cell,) = [cell for cell in code(executed) if "shift ratio" in cell.source]
    found = re.search(r"r = (\S+), 'a photo of a pullover', landmark: (\w+)", shown(cell))
    assert 0.5 <= float(found[1]) <= 0.9
    assert found[2] == "examples"


def test_notebook_draws_figures(executed):
    drawn = [
        Image.open(io.BytesIO(base64.b64decode(out.data["image/png"])))
        for cell in code(executed)
        for out in cell.outputs
        if "image/png" in out.get("data", {})
    ]
    assert len(drawn) == 3
    for picture in drawn:
        assert picture.width > 2 * picture.height
        assert len(picture.convert("L").getcolors()) > 50


def test_notebook_shows_provenance_and_every_level(executed):
    (cell,) = [cell for cell in code(executed) if "provenance" in cell.source]
    metadata, levels = (out.data["text/plain"] for out in outputs(cell))
    rows = re.findall(r"^\d+ +(\w+) +(\w+) +(0\.\d) +a photo of a (\w+)", metadata, re.MULTILINE)
    assert len(rows) == 8
    assert all(label == prompted != source for label, source, _, prompted in rows)
    chosen = re.findall(r"(0\.\d) +(-?\d\.\d+) +(True|False)", levels)
    assert [r for r, _, _ in chosen] == ["0.5", "0.6", "0.7", "0.8", "0.9"]
    assert [keeps for _, _, keeps in chosen].count("True") == 1


def test_notebook_saves_a_set_and_loads_it(executed):
    (cell,) = [cell for cell in code(executed) if "AugmentedSet.load" in cell.source]
    assert {"metadata.csv", "members.csv", "README.md", "coat"} <= set(shown(cell).split())
    assert "8 images; the first is a coat of (32, 32) pixels" in shown(cell)


def test_notebook_has_soft_labels_that_sum_to_one(executed):
    (cell,) = [cell for cell in code(executed) if "soft_labels" in cell.source]
    rows = re.findall(r"\[([\d. ]+)\]", shown(cell))
    weights = [[float(value) for value in row.split()] for row in rows]
    assert len(weights) == 4
    for index, row in enumerate(weights):
        assert sum(row) == pytest.approx(1, abs=0.02)
        assert row.index(max(row)) == index


def test_notebook_feeds_real_and_generated_images_to_a_loop(executed):
    (cell,) = [cell for cell in code(executed) if "DataLoader(" in cell.source]
    counts = re.findall(r"\((\d+), 3, 32, 32\) \[([\d, ]+)\]", shown(cell))
    assert sum(int(size) for size, _ in counts) == 24 + 8
    by_class = [[int(n) for n in numbers.split(",")] for _, numbers in counts]
    assert [sum(column) for column in zip(*by_class, strict=True)] == [8] * 4


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("train_your_own_loop", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_loop_draws_support_from_train_and_queries_from_test(script):
    support, query = script.read("train", 5), script.read("test", 200)
    ids = [{image_id(image) for image, _ in images} for images in (support, query)]
    assert [len(support), len(query)] == [25, 1000]
    assert ids[0].isdisjoint(ids[1])
    assert [sum(label == i for _, label in query) for i in range(5)] == [200] * 5
    again = script.read("train", 5)
    assert [(image.tobytes(), label) for image, label in again] == [
        (image.tobytes(), label) for image, label in support
    ]


def test_loop_trains_with_and_without_the_set_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, *scores, last = done.stdout.splitlines()
    assert re.fullmatch(r"30 images generated in \d+ s", first)
    found = [re.fullmatch(r"(.+): accuracy ([\d.]+)%, ([\d.]+)% to ([\d.]+)%", s) for s in scores]
    assert [match[1] for match in found] == ["real", "real and generated"]
    for match in found:
        mean, low, high = (float(match[i]) for i in (2, 3, 4))
        assert 20 < low <= mean <= high < 90  # chance is 20
    assert re.fullmatch(r"\d+ s in all", last)
    assert list(tmp_path.iterdir()) == []


def test_loop_imports_one_name_of_the_library_and_is_short(script):
    """It imports one name of the library, and fits on a few screens."""
    text = SCRIPT.read_text()
    assert re.findall(r"^(?:from|import) genie.*$", text, re.MULTILINE) == [
        "from genie import GeNIe"
    ]
    assert len(text.splitlines()) <= 90
