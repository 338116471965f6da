import json
from pathlib import Path

from genie.cli.places import (
    features_file,
    note_run,
    runs_folder,
    store_folder,
    work_folder,
)


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
