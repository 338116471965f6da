import json
from pathlib import Path

import pytest

from genie.cli.places import (
    features_file,
    note_run,
    require_tracked,
    require_writable,
    runs_folder,
    store_folder,
    work_folder,
)
from genie.core.errors import InvalidValueError, MissingFileError


def test_store_and_vectors_are_in_the_folder_of_tokens(monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    root = Path("place")
    assert store_folder(root) == root / ".genie/store"
    assert features_file(root).parent == work_folder(root) == store_folder(root).parent


def test_experiments_in_temporary_folders_share_the_store_but_not_the_notes(monkeypatch):
    monkeypatch.setenv("DVC_ROOT", "repository")
    root = Path("repository/.dvc/tmp/exps/one")
    shared = Path("repository/.genie")
    assert store_folder(root).parent == shared
    assert features_file(root).parent == shared
    assert work_folder(root) == shared
    assert runs_folder(root) == root / ".genie/runs"


def test_notes_on_a_run_are_replaced_by_those_of_the_next(tmp_path):
    note_run(tmp_path, "prepare", seconds=1.5, images=3)
    note_run(tmp_path, "generate", seconds=9)
    note_run(tmp_path, "prepare", seconds=2)
    notes = {p.stem: json.loads(p.read_text()) for p in runs_folder(tmp_path).iterdir()}
    assert notes == {"prepare": {"seconds": 2}, "generate": {"seconds": 9}}


def test_input_that_only_the_workspace_has_is_to_be_tracked(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "temporary")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    require_tracked([Path("nowhere"), tmp_path / "photos"])
    with pytest.raises(MissingFileError, match=r"^photos is not tracked.*--temp.*`dvc add photos`"):
        require_tracked([Path("nowhere"), Path("photos")])
    monkeypatch.chdir(tmp_path)
    require_tracked([Path("nowhere"), Path("photos")])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("folder", "is a folder"),
        ("file/out.png", "cannot be written"),
        ("locked.png", "is read-only"),
        ("link.png", "is read-only"),
        ("out.doc", r"must end in \.png, \.jpg"),
        ("out", r"must end in \.png, \.jpg"),
    ],
)
def test_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, name, why):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "locked.png").touch(mode=0o444)  # as DVC's cache has them
    (tmp_path / "link.png").symlink_to("locked.png")
    endings = [] if name == "folder" else [".png", ".jpg"]
    with pytest.raises(InvalidValueError, match=f"^--out {why}.*; name another file$"):
        require_writable(tmp_path / name, endings)


def test_place_for_a_new_file_is_made_and_a_file_that_is_there_stays(tmp_path):
    require_writable(tmp_path / "new/folder/out.PNG", [".png"])
    assert list((tmp_path / "new/folder").iterdir()) == []
    (tmp_path / "old.csv").write_text("old")
    require_writable(tmp_path / "old.csv")
    assert (tmp_path / "old.csv").read_text() == "old"
    require_writable(Path("/dev/stdout"))
