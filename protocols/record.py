"""The record of a table: accuracies per task (tasks.csv) and facts about rows (rows.csv).

`made_from` in rows.csv is a digest of the parameters and files that determine a row's result. A row
whose digest is recorded is not run again. The digest does not include code. Instead, rows.csv names
the commit that made each row, and tests/acceptance/test_tables.py reruns rows.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from genie.core.seeding import digest, fingerprint
from genie.settings import MOVED
from protocols.specification import BASELINE, Row

NAME = ["setting", "row"]
SCORES = [*NAME, "task", "accuracy", "boundary", "many", "medium", "few"]
"""The columns of tasks.csv; a column per group of query images may follow."""
FACTS = [
    *(*NAME, "made_from", "label_consistency", "mean_r", "images", "guided_steps", "rejected"),
    *("shared", "seconds", "commit", "machine"),
]
"""The columns of rows.csv. `shared` is the share of support images that two tasks have in common;
`seconds` is the time of the stages, without images that were already in the store."""


@dataclass(frozen=True)
class Record:
    """The recorded rows of a table: `scores` (columns SCORES and groups) and `facts` (FACTS)."""

    scores: pd.DataFrame
    facts: pd.DataFrame

    def shared(self, setting: str) -> float:
        """Return the share of support images that two tasks of a setting have in common."""
        return float(self.facts.loc[self.facts["setting"] == setting, "shared"].iloc[0])

    def digests(self) -> dict[tuple[str, str], str]:
        """Return `made_from` by setting and row."""
        return self.facts.set_index(NAME)["made_from"].to_dict()


def made_from(row: Row) -> str:
    """Return the digest (24 hex digits) of the parameters and files that determine a row's result.

    Parameters with their default values are ignored, and a renamed parameter enters the digest
    under its first name (`settings.MOVED`). Therefore, a row is not rerun if a parameter is
    renamed, or if a parameter is added whose default keeps the old behaviour.
    """
    given = _dotted(row.params.model_dump(mode="json", exclude_defaults=True))
    first = {new: old for old, new in reversed(MOVED.items())}
    params = {first.get(key, key): value for key, value in given.items()}
    own = row.params
    models = (own.classifier.backbone, own.generator.model, own.oracle.model, own.filter.clip)
    files = (own.data.path, *models, own.prompt.folder, *([row.groups] if row.groups else []))
    return digest(json.dumps([params, list(map(content, files))], sort_keys=True)).hex()[:24]


def read_record(folder: Path) -> Record:
    """Read the record in a folder, which may be empty."""
    if not (folder / "rows.csv").is_file():
        return Record(pd.DataFrame(columns=SCORES), pd.DataFrame(columns=FACTS))
    text = {"made_from": str, "commit": str}  # even if they consist of digits
    return Record(pd.read_csv(folder / "tasks.csv"), pd.read_csv(folder / "rows.csv", dtype=text))


def write_record(record: Record, folder: Path) -> None:
    """Write a record, scores first, so that rows.csv never names a row without scores."""
    folder.mkdir(parents=True, exist_ok=True)
    for table, file in ((record.scores, "tasks.csv"), (record.facts, "rows.csv")):
        table.to_csv(folder / f"{file}.tmp", index=False, lineterminator="\n")
        (folder / f"{file}.tmp").replace(folder / file)


def with_row(record: Record, row: Row, scores: pd.DataFrame, facts: Mapping[str, Any]) -> Record:
    """Return the record with the scores and facts of a new row added.

    `scores` also contains the scores of the setting's baseline, which are added with its first row.
    """
    known = set(record.scores.loc[record.scores["setting"] == row.setting, "row"])
    added = (
        scores[~scores["row"].isin(known)],
        pd.DataFrame([{"setting": row.setting, "row": row.name, **facts}], columns=FACTS),
    )
    tables = zip((record.scores, record.facts), added, strict=True)
    return Record(
        *(pd.concat(pair, ignore_index=True) if len(pair[0]) else pair[1] for pair in tables)
    )


def up_to_date(record: Record, rows: Sequence[Row]) -> Record:
    """Return the recorded rows whose digests match those of `rows`, in the order of `rows`."""
    recorded = record.digests()
    kept = [(r.setting, r.name) for r in rows if recorded.get((r.setting, r.name)) == made_from(r)]
    return in_order(record, kept)


def in_order(record: Record, names: Sequence[tuple[str, str]]) -> Record:
    """Return the rows with the given settings and names, after the baseline of each setting."""
    places: dict[tuple[str, str], int] = {}
    for setting, row in names:
        places.setdefault((setting, BASELINE), len(places))
        places.setdefault((setting, row), len(places))

    def ordered(table: pd.DataFrame) -> pd.DataFrame:
        place = table[NAME].apply(tuple, axis=1).map(places) if len(table) else pd.Series(dtype=int)
        return table.loc[place.dropna().sort_values(kind="stable").index].reset_index(drop=True)

    return Record(ordered(record.scores), ordered(record.facts))


@functools.cache
def content(path: Path) -> str:
    """Return a digest of a file or of all files under a folder, computed once per process."""
    if path.is_file():
        return fingerprint(path.parent, [path])
    return fingerprint(path, (file for file in path.rglob("*") if file.is_file()))


def _dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        inside = isinstance(value, dict)
        flat |= _dotted(value, f"{prefix}{key}.") if inside else {prefix + key: value}
    return flat
