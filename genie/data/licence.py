"""The licence files that come with images and models."""

from pathlib import Path

NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")


def licence_text(folder: Path) -> str:
    """Return the text of a folder's licence files (`LICENSE*` and similar), or "" without any."""
    if not folder.is_dir():
        return ""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name.upper().startswith(NAMES))
    return "\n\n".join(p.read_text(encoding="utf-8", errors="replace").strip() for p in files)
