"""The recorded scores of a protocol's folder."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from genie.errors import GenieError
from genie.tables import ROW_SCORES, read_table


def read_scores(folder: Path, setting: str, rows: Sequence[str]) -> pd.DataFrame:
    """Read `tasks.csv` of a protocol's folder (schema ROW_SCORES).

    Raises GenieError if there is none, or if it lacks the setting or one of its rows.
    """
    path = folder / "tasks.csv"
    if not path.is_file():
        raise GenieError(f"{path} does not exist; run `dvc repro {folder}/dvc.yaml`")
    scores = read_table(path, ROW_SCORES)
    _check_name(setting, scores["setting"], path)
    for row in rows:
        _check_name(row, scores.loc[scores["setting"] == setting, "row"], path)
    return scores


def read_shared(folder: Path, setting: str) -> float:
    """Read which share of support images two tasks of a setting have in common.

    It stands in the column `shared` of `results.csv`.
    """
    table = pd.read_csv(folder / "results.csv")
    own = table[table["setting"] == setting]
    return float(own["shared"].iloc[0])


def _check_name(name: str, known: pd.Series, path: Path) -> None:
    if name not in set(known):
        names = ", ".join(map(repr, dict.fromkeys(known)))
        raise GenieError(f"{path} has no {name!r}; it has {names}")
