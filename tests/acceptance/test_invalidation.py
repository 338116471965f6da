"""What one edited line reruns, with the real dvc: docs/reference/invalidation.md is written here.

Each edit comes on top of the ones before, and `dvc repro` follows it.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.scratch import ROOT, call, commit, make_scratch, ran, read_json

STAGES = tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
NOTHING = (
    "genie/progress.py",
    "genie/cli/signals.py",
    "genie/cli/messages.py",
    "genie/cli/main.py",
    "genie/cli/summary.py",
    "stages/runner.py",
)
"""Files that cannot change a result: progress, signals, the command line, messages."""

COMMENTED = (
    *NOTHING,
    "genie/core/errors.py",
    "genie/settings.py",
    "genie/data/images.py",
    "genie/plan/methods.py",
    "genie/classify/heads.py",
    "genie/render/engine.py",
    "genie/choose/filters.py",
    "genie/pipeline.py",
    "genie/measure/metrics.py",
    "genie/figures/canvas.py",
    *(f"stages/{name}.py" for name in STAGES),
)
FILTER = "`keep_all` in genie/choose/filters.py rejects every second image"

HEAD = f"""# What an edit reruns

`make acceptance` writes this table. It runs the real `dvc` on a small data set with a tiny
generator. Each row makes one more edit, in addition to the edits of the rows above, and runs
`dvc repro` again. A stage reruns if a file or a room (a package in `genie/`) that it lists in
dvc.yaml has changed. If its new outputs are the same bytes as before, as after a comment, they
do not cause later stages to rerun. Images come from the store, so an edit of the code that renders
them does not render them again. Whoever changes the code so that pixels differ must increase
`RENDER_VERSION`; every image is then rendered again.

| edit | stages that ran (of {len(STAGES)}) | images rendered |
|---|---|---|
"""

Edits = dict[str, tuple[list[str], int]]
"""What was edited -> the stages that ran, the images rendered."""


@pytest.fixture(scope="module")
def edits(photos: Path, tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Edits:
    place = tmp_path_factory.mktemp("invalidation") / "scratch"
    make_scratch(place, photos, tiny_sd_folder, {"filter": {"attempts": 1}})
    call(place, "dvc", "repro")
    commit(place)
    found = {}
    for name in COMMENTED:
        found[f"a comment in {name}"] = after(place, name, lambda text: text + "# a comment\n")
    found[FILTER] = after(place, "genie/choose/filters.py", reject_every_second)
    rows = [
        f"| {edit} | {', '.join(stages) or 'none'} | {images} |"
        for edit, (stages, images) in found.items()
    ]
    (ROOT / "docs/reference/invalidation.md").write_text(HEAD + "\n".join(rows) + "\n")
    return found


def after(place: Path, name: str, edit: Callable[[str], str]) -> tuple[list[str], int]:
    """The stages that `dvc repro` ran after an edit of a file, and the images it rendered."""
    path = place / name
    before = path.read_text()
    path.write_text(edit(before))
    assert path.read_text() != before
    stages = ran(call(place, "dvc", "repro"))
    rendered = read_json(place / ".genie/runs/rendering.json")["rendered"]
    return stages, rendered if "generate" in stages else 0


def reject_every_second(text: str) -> str:
    all_kept = "return np.ones(len(generated.labels), bool)"
    assert text.count(all_kept) == 1
    return text.replace(all_kept, "return np.arange(len(generated.labels)) % 2 == 0")


def stages_of(edits: Edits, name: str) -> list[str]:
    return edits[f"a comment in {name}"][0]


def test_no_edit_renders_an_image(edits):
    assert {edit: images for edit, (_, images) in edits.items() if images} == {}


def test_figure_reruns_analyse_alone(edits):
    assert stages_of(edits, "genie/figures/canvas.py") == ["analyse"]


@pytest.mark.parametrize("name", NOTHING)
def test_what_cannot_change_a_result_reruns_nothing(edits, name):
    assert stages_of(edits, name) == []


def test_rooms_rerun_the_stages_that_import_them(edits):
    assert stages_of(edits, "genie/core/errors.py") == list(STAGES)
    assert stages_of(edits, "genie/render/engine.py") == ["generate"]
    assert stages_of(edits, "genie/plan/methods.py") == ["validate", "generate", "retrain"]


def test_measuring_reruns_nothing_before_it(edits):
    assert stages_of(edits, "genie/measure/metrics.py") == ["evaluate", "analyse"]


def test_comment_in_a_filter_stops_at_generate(edits):
    assert stages_of(edits, "genie/choose/filters.py") == ["generate"]


def test_filter_that_keeps_other_images_reruns_what_follows(edits):
    assert edits[FILTER][0] == ["generate", "retrain", "evaluate", "analyse"]


@pytest.mark.parametrize("name", STAGES)
def test_comment_in_a_stage_reruns_it_alone(edits, name):
    assert stages_of(edits, f"stages/{name}.py") == [name]
