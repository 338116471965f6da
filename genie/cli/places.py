"""Working folders that are not outputs of a stage: the image store, caches and run notes."""

import json
import os
from pathlib import Path


def work_folder(root: Path) -> Path:
    """Return the folder of the image store, the tokens and the cached embeddings.

    DVC experiments in temporary folders share this folder (DVC_ROOT).
    """
    return Path(os.environ.get("DVC_ROOT", root)) / ".genie"


def store_folder(root: Path) -> Path:
    """Return the folder of the image store."""
    return work_folder(root) / "store"


def features_file(root: Path) -> Path:
    """Return the file of cached image embeddings."""
    return work_folder(root) / "features.sqlite"


def runs_folder(root: Path) -> Path:
    """Return the folder for facts that differ between runs, such as run times."""
    return root / ".genie" / "runs"


def note_run(root: Path, name: str, **facts: float) -> None:
    """Write facts about this run to the JSON file `name`.

    In a DVC experiment, also write them to the experiment's folder in the shared work folder.
    """
    folders = [runs_folder(root)]
    if experiment := os.environ.get("DVC_EXP_NAME"):
        folders.append(work_folder(root) / "runs" / "experiments" / experiment)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
