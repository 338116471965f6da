"""The numbers that recorded files hold: tables, measurements, parameters and constants."""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from genie.cli.table_scores import read_shared
from genie.measure.metrics import SHARES, spread_of_mean

HOMES = ("benchmarks", "docs", "genie", "metrics", "params.yaml", "protocols", "stages", "zoo")
"""Where records and parameters are: what git holds, not what a run leaves behind."""
TABLES = ("results.csv", "tasks.csv", "protocol.yaml")

_KEY = re.compile(r"(\w+)\.(\w+)")
_WITHIN = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
_ERRORS = ("_standard_error", "_deviation")
_BOUNDS = ("_low", "_high")  # of an interval that is printed as ±
_NONE = np.empty((0, 2))


@dataclass(frozen=True)
class Records:
    """What a file holds: values (n,), values with half intervals (n, 2), numbers in texts (n,).

    `gaps` (n, 2) are means of paired differences with half intervals: points, not percentages.
    """

    values: np.ndarray
    spreads: np.ndarray
    labels: np.ndarray
    gaps: np.ndarray


def files_of(names: Iterable[str], page: Path, root: Path) -> list[Path]:
    """The recorded files that names on a page stand for, without repeats."""
    found = chain.from_iterable(_files(name, page, root) for name in names)
    return list(dict.fromkeys(file for file in found if file.suffix in _READERS))


def _files(name: str, page: Path, root: Path) -> list[Path]:
    """The files of one name: a path from the page or the root, or what a benchmark writes."""
    if module := re.fullmatch(r"benchmarks\.(\w+)", name):
        found = sorted((root / "benchmarks").glob(f"{module[1]}[-.]*"))
        return [file for file in found if file.suffix != ".py"]
    word = name.strip("\"'`(),;").partition("#")[0]
    places = [(base / word).resolve() for base in (page.parent, root)] if word else []
    place = next((p for p in places if p.exists() and p.is_relative_to(root) and p != root), None)
    if place is None or place.relative_to(root).parts[0] not in HOMES:
        return []
    return _of_place(place)


def _of_place(place: Path) -> list[Path]:
    """A protocol's tables for its folder and what lies in it; for a README, what lies beside it."""
    folder = place if place.is_dir() else place.parent
    if (folder / "protocol.yaml").is_file():
        return [file for name in TABLES if (file := folder / name).is_file()]
    if place.name == "README.md":
        return sorted(p for p in folder.iterdir() if p.suffix in (".csv", ".json"))
    return [place]


@cache
def read_records(path: Path) -> Records:
    """What a recorded file holds."""
    return _READERS[path.suffix](path)


def _read_table(path: Path) -> Records:
    table = pd.read_csv(path)
    if {"task", "row", "accuracy"} <= set(table.columns):
        return _of_tasks(table, path.parent)
    return _of_mappings([dict(row) for row in table.to_dict("records")])


def _of_tasks(table: pd.DataFrame, folder: Path) -> Records:
    """What the accuracies per task of a protocol say of its rows, and of any two of them."""
    shares = [name for name in ("accuracy", *SHARES) if name in table]
    means, gaps = [_NONE], [_NONE]
    for column, (setting, own) in product(shares, table.groupby("setting")):
        wide = own.pivot(index="task", columns="row", values=column).dropna(axis=1)
        scores = wide.to_numpy(float)
        if scores.shape[0] > 1 and scores.shape[1] > 1:
            first, second = np.array([*permutations(range(scores.shape[1]), 2)]).T
            shared = read_shared(folder, str(setting))
            means.append(_intervals(scores, shared))
            gaps.append(_intervals(scores[:, first] - scores[:, second], shared))
    return Records(np.empty(0), np.concatenate(means), np.empty(0), np.concatenate(gaps))


def _intervals(scores: np.ndarray, shared: float) -> np.ndarray:
    """Mean and half the 95% interval (c, 2) of columns (n, c), as `metrics.interval` has it."""
    n = len(scores)
    half = stats.t.ppf(0.975, n - 1) * scores.std(0, ddof=1) * spread_of_mean(n, shared)
    return np.stack([scores.mean(0), half], axis=1)


def _read_json(path: Path) -> Records:
    return _of_mappings(_mappings(json.loads(path.read_text(encoding="utf-8"))))


def _read_yaml(path: Path) -> Records:
    return _of_mappings(_mappings(yaml.safe_load(path.read_text(encoding="utf-8"))))


def _read_code(path: Path) -> Records:
    """The numbers in a module's code, which are parameters."""
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = [node.value for node in tree if isinstance(node, ast.Constant)]
    return _of_mappings([{"": value} for value in found if is_number(value)])


_READERS = {".csv": _read_table, ".json": _read_json, ".yaml": _read_yaml, ".py": _read_code}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in nested data, each with its own values; a list is one by number."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return []
    own = {str(key): cell for key, cell in value.items()}
    return [own, *chain.from_iterable(map(_mappings, own.values()))]


def _of_mappings(rows: Sequence[Mapping[str, Any]]) -> Records:
    """The numbers of rows of columns, and those within their texts and names."""
    cells = [(name, cell) for row in rows for name, cell in row.items()]
    texts = {text for pair in cells for text in pair if isinstance(text, str)}
    labels = [float(n) for text in texts for n in _WITHIN.findall(text.replace("_", " "))]
    values = [cell for name, cell in cells if is_number(cell) and not name.endswith(_BOUNDS)]
    return Records(
        np.array(values, float),
        np.array([*_NONE, *chain.from_iterable(map(_spreads, rows))]).reshape(-1, 2),
        np.array(labels),
        _NONE,
    )


def _spreads(row: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """Each value with half its interval, or its error, where the next columns hold that."""
    cells = [*row.items(), ("", None)]
    for (_, value), (name, low), (_, high) in zip(cells, cells[1:], cells[2:], strict=False):
        if name.split("_")[-1] == "low" and all(map(is_number, (value, low, high))):
            yield value, (high - low) / 2
        elif name.endswith(_ERRORS) and is_number(value):
            yield value, low


def is_number(cell: object) -> bool:
    """Whether it is a number, not NaN and not a truth value."""
    return isinstance(cell, int | float) and not isinstance(cell, bool) and cell == cell


@cache
def noise_ratios(root: Path) -> frozenset[float]:
    """The noise ratios of params.yaml, its levels and those of all protocols."""
    noise = read_params(root)["noise"]
    found = set(np.round(np.linspace(noise["low"], noise["high"], noise["M"]), 6))
    for file in root.glob("protocols/*/protocol.yaml"):
        rows = yaml.safe_load(file.read_text(encoding="utf-8"))["rows"].values()
        found |= {row["noise.r"] for row in rows if row and "noise.r" in row}
    return frozenset(float(r) for r in found if is_number(r))


def parameters(names: Iterable[str], root: Path) -> list[float]:
    """The values of the keys of params.yaml among the names."""
    found: list[Any] = []
    for key in filter(None, map(_KEY.match, names)):
        section = read_params(root).get(key[1])
        found.append(section.get(key[2]) if isinstance(section, dict) else None)
    return [float(value) for value in found if is_number(value)]


@cache
def read_params(root: Path) -> Mapping[str, Any]:
    """The values of params.yaml."""
    return yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
