"""The specification of a table: its settings, and its rows with their parameters.

A table is a folder with `protocol.yaml`:

    title: a line for the table
    params: {data.tasks: 10}            # on top of params.yaml, in every row
    settings:                           # groups of rows
      logistic regression: {}
      from scratch: {params: {classifier.start: scratch}, rows: [GeNIe-Ada]}  # only some rows
      biased: {groups: data/groups.csv}   # accuracy on groups of query images as well
    rows:                               # methods to compare, with the parameters of each
      GeNIe-Ada: {noise.r: ada}
    reference: GeNIe-Ada                # the row that all others are compared with
    comparisons:                        # optional: pairs [row, other] or [row, other, share]
      from scratch: [[GeNIe-Ada, Weak copies]]
    paper: {logistic regression: {GeNIe-Ada: 0.5}}   # optional: published accuracies

Parameters are named as on the command line (`noise.r`).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from genie.core.errors import GenieError, one_line
from genie.data.prompts import slug
from genie.settings import Params, check_params, read_yaml

BASELINE = "Weak copies"
"""The row of the classifier without generated images: support images and weak copies."""

Changes = dict[str, Any]
"""Parameters that differ from those of params.yaml, by dotted key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Setting(_Strict):
    """Parameters for a group of rows, and the rows' names in table order (None for all rows).

    `groups` is a CSV file with the column image_id and columns of group names.
    """

    params: Changes = {}
    rows: list[str] | None = None
    groups: Path | None = None


class Protocol(_Strict):
    """The content of `protocol.yaml`.

    The parameters in `overlay` override those of the settings; those of a row override both.
    """

    title: str
    params: Changes
    settings: Annotated[dict[str, Setting], Field(min_length=1)]
    rows: Annotated[dict[str, Changes], Field(min_length=1)]
    reference: str
    comparisons: dict[str, list[Annotated[list[str], Field(min_length=2, max_length=3)]]] = {}
    paper: dict[str, dict[str, float]] = {}
    overlay: Changes = {}

    def rows_in(self, setting: str) -> list[str]:
        """Return the names of the rows of a setting, in table order."""
        own = self.settings[setting].rows
        return list(self.rows) if own is None else own

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name in (*self.comparisons, *self.paper):
            if name not in self.settings:
                raise ValueError(f"{name!r} is not one of the settings")
        for name in self.settings:
            compared = [row for pair in self.comparisons.get(name, []) for row in pair[:2]]
            own = self.rows_in(name)
            for row in (*own, self.reference, *compared):
                if row != BASELINE and not (row in self.rows and row in own):
                    raise ValueError(f"{row!r} is not one of the rows of {name}")
        return self


@dataclass(frozen=True)
class Row:
    """One row in one setting: its parameters, and the working folder of its stages."""

    setting: str
    name: str
    params: Params
    place: Path
    groups: Path | None = None


def read_protocol(path: Path, overlay: Path | None = None) -> Protocol:
    """Read a protocol from a YAML file, and parameters from the file `overlay` if it is given.

    Raise GenieError for a missing or unknown key, and for a name that is not one of the rows.
    """
    given = {"overlay": read_yaml(overlay)} if overlay else {}
    try:
        return Protocol.model_validate(read_yaml(path) | given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "protocol"
        raise GenieError(f"{path}: {where}: {one_line(ValueError(first['msg']))}") from None


def rows_of(protocol: Protocol, base: Mapping[str, Any], root: Path) -> list[Row]:
    """Return all rows in table order; the rows of one setting share a folder under `root`.

    `base` contains the values of params.yaml. Raise GenieError, which names the setting, row and
    key, if a parameter is unknown or out of range.
    """
    found = []
    for name, setting in protocol.settings.items():
        for row in protocol.rows_in(name):
            own = protocol.rows[row]
            changes = {**protocol.params, **setting.params, **protocol.overlay, **own}
            params = check_params(override(base, changes), where=f"{name}: {row}")
            found.append(Row(name, row, params, root / slug(name), setting.groups))
    return found


def override(params: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested parameters with dotted keys set; keys that do not exist are added."""
    result = copy.deepcopy(dict(params))
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        if section and not isinstance(result.get(section), dict):
            result[section] = {}
        (result[section] if section else result)[name] = value
    return result
