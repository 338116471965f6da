import json
from pathlib import Path

from stages.shared.places import (
    features_file,
    note_run,
    runs_folder,
    store_folder,
    tokens_folder,
)


def test_store_vectors_and_tokens_lie_together(monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    root = Path("place")
    assert store_folder(root) == root / ".genie/store"
    assert features_file(root).parent == tokens_folder(root).parent == store_folder(root).parent


def test_experiments_in_temporary_folders_share_the_store_but_not_the_notes(monkeypatch):
    monkeypatch.setenv("DVC_ROOT", "repository")
    root = Path("repository/.dvc/tmp/exps/one")
    shared = Path("repository/.genie")
    assert store_folder(root).parent == shared
    assert features_file(root).parent == shared
    assert tokens_folder(root).parent == shared
    assert runs_folder(root) == root / ".genie/runs"


def test_notes_on_a_run_are_replaced_by_those_of_the_next(tmp_path):
    note_run(tmp_path, "prepare", seconds=1.5, images=3)
    note_run(tmp_path, "generate", seconds=9)
    note_run(tmp_path, "prepare", seconds=2)
    notes = {p.stem: json.loads(p.read_text()) for p in runs_folder(tmp_path).iterdir()}
    assert notes == {"prepare": {"seconds": 2}, "generate": {"seconds": 9}}
