"""What a protocol compares: its settings, and its rows with the parameters of each.

A protocol is a folder with `protocol.yaml`:

    title: a line for the table
    params: {data.tasks: 10}            # on top of params.yaml, in every row
    settings:                           # groups of rows, each with parameters of its own
      logistic regression: {}
      from scratch: {classifier.start: scratch, rows: [GeNIe-Ada]}   # only some of the rows
    rows:                               # methods to compare
      GeNIe-Ada: {noise.r: ada}
    reference: GeNIe-Ada                # the row that all others are compared with
    paper: {logistic regression: {GeNIe-Ada: 0.5}}   # optional: published accuracies

Parameters are keyed as on the command line (`noise.r`).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genie.core.errors import GenieError
from genie.data.prompts import slug
from genie.settings import Params, check_params, read_yaml

BASELINE = "Weak"
"""The row of the classifier without generated images: support images and weak copies."""

_REQUIRED = ("title", "params", "settings", "rows", "reference")
_OPTIONAL = ("paper",)

Changes = Mapping[str, object]
"""Parameters that differ from those of params.yaml, by dotted key."""


@dataclass(frozen=True)
class Setting:
    """Parameters of a group of rows, and the names of these rows in table order."""

    params: Changes
    rows: Sequence[str]


@dataclass(frozen=True)
class Protocol:
    """The content of `protocol.yaml`.

    `overlay` goes on top of the settings; a row's own parameters go on top of both.
    """

    title: str
    params: Changes
    settings: Mapping[str, Setting]
    rows: Mapping[str, Changes]
    reference: str
    paper: Mapping[str, Mapping[str, float]]
    overlay: Changes


@dataclass(frozen=True)
class Row:
    """One row under one setting: its parameters, and the folder that its stages work in."""

    setting: str
    name: str
    params: Params
    place: Path


def read_protocol(path: Path, overlay: Path | None = None) -> Protocol:
    """Read the protocol of a YAML file, with the parameters of the file `overlay` if there is one.

    Raise GenieError for a missing or unknown key, or a name that is not one of the rows.
    """
    raw = read_yaml(path)
    _check_keys(raw, path)
    rows = {name: _changes(own, f"{path}: rows.{name}") for name, own in raw["rows"].items()}
    settings = {
        name: _setting(_changes(own, f"{path}: settings.{name}"), rows)
        for name, own in raw["settings"].items()
    }
    _check_names(settings, rows, raw["reference"], path)
    return Protocol(
        title=raw["title"],
        params=_changes(raw["params"], f"{path}: params"),
        settings=settings,
        rows=rows,
        reference=raw["reference"],
        paper=raw.get("paper", {}),
        overlay=read_yaml(overlay) if overlay else {},
    )


def rows_of(protocol: Protocol, base: Mapping[str, Any], root: Path) -> list[Row]:
    """Return all rows in table order; those of one setting share a folder under `root`.

    `base` holds the values of params.yaml. Raise GenieError, naming setting, row and key, for a
    parameter that is unknown or out of range.
    """
    return [
        Row(name, row, _params(protocol, base, name, row), root / slug(name))
        for name, setting in protocol.settings.items()
        for row in setting.rows
    ]


def override(params: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """Return a copy of nested parameters with dotted keys set, known or not."""
    result = copy.deepcopy(dict(params))
    for key, value in changes.items():
        *sections, name = key.split(".")
        at = result
        for section in sections:
            if not isinstance(at.get(section), dict):
                at[section] = {}
            at = at[section]
        at[name] = value
    return result


def _params(protocol: Protocol, base: Mapping[str, Any], setting: str, row: str) -> Params:
    own = protocol.settings[setting].params
    changes = {**protocol.params, **own, **protocol.overlay, **protocol.rows[row]}
    return check_params(override(base, changes), where=f"{setting}: {row}")


def _check_keys(raw: Mapping[str, Any], path: Path) -> None:
    known = (*_REQUIRED, *_OPTIONAL)
    if unknown := sorted(set(raw) - set(known)):
        raise GenieError(f"{path}: {unknown[0]} is not a known key; use {', '.join(known)}")
    if missing := [key for key in _REQUIRED if key not in raw]:
        raise GenieError(f"{path}: {missing[0]} is missing; add it")
    for key in ("settings", "rows"):
        if not isinstance(raw[key], dict) or not raw[key]:
            raise GenieError(f"{path}: {key} must hold at least one name, got {raw[key]!r}")


def _changes(value: object, where: str) -> dict[str, Any]:
    """Return a mapping as it is, and an empty one for nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GenieError(f"{where} must hold parameters such as noise.r: 0.7, got {value!r}")
    return value


def _setting(own: Mapping[str, Any], rows: Mapping[str, object]) -> Setting:
    """Return a setting: with all rows, unless it names some of them."""
    params = {key: value for key, value in own.items() if key != "rows"}
    return Setting(params, tuple(own.get("rows", rows)))


def _check_names(
    settings: Mapping[str, Setting], rows: Mapping[str, object], reference: str, path: Path
) -> None:
    for name, setting in settings.items():
        if unknown := [row for row in setting.rows if row not in rows]:
            raise GenieError(f"{path}: settings.{name}: {unknown[0]!r} is not one of the rows")
        if reference not in setting.rows:
            raise GenieError(
                f"{path}: reference must be one of the rows of {name}, got {reference!r}"
            )
