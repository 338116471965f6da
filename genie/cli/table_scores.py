"""The recorded scores of a protocol's folder."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from genie.core.errors import InvalidValueError, MissingFileError
from genie.core.tables import ROW_SCORES, read_table


def read_scores(folder: Path, setting: str, rows: Sequence[str]) -> pd.DataFrame:
    """Read `tasks.csv` of a protocol's folder (schema ROW_SCORES).

    Raise MissingFileError if there is none, and InvalidValueError if it lacks the setting or one of
    its rows.
    """
    path = folder / "tasks.csv"
    if not path.is_file():
        raise MissingFileError(
            "does not exist", argument=str(path), remedy=f"run `dvc repro {folder}/dvc.yaml`"
        )
    scores = read_table(path, ROW_SCORES)
    _require_name(setting, scores["setting"], path)
    for row in rows:
        _require_name(row, scores.loc[scores["setting"] == setting, "row"], path)
    return scores


def read_shared(folder: Path, setting: str) -> float:
    """Read which share of support images two tasks of a setting have in common.

    This is the column `shared` of `results.csv`.
    """
    table = pd.read_csv(folder / "results.csv")
    return float(table.loc[table["setting"] == setting, "shared"].iloc[0])


def _require_name(name: str, known: pd.Series, path: Path) -> None:
    if name not in set(known):
        names = ", ".join(map(repr, dict.fromkeys(known)))
        raise InvalidValueError(f"has no {name!r}", argument=str(path), remedy=f"it has {names}")
