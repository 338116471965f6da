"""The settings of the engine (this process or Ray workers), and of the remote image store.

They are read from environment variables, or else from `.genie/engine.yaml`, which git ignores. They
are not in params.yaml, because they do not change the images.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from genie.cli.places import work_folder
from genie.core.errors import InvalidValueError, one_line
from genie.render.ray_engine import Cluster
from genie.settings import Section

VARIABLES = {
    "engine": "GENIE_ENGINE",
    "address": "GENIE_RAY_ADDRESS",
    "workers": "GENIE_RAY_WORKERS",
    "gpus_per_worker": "GENIE_RAY_GPUS_PER_WORKER",
    "remote_store": "GENIE_REMOTE_STORE",
}
"""The environment variable of each setting, which takes precedence over the file."""


class EngineSettings(Section):
    """The settings of the engine; see docs/reference/engine.md."""

    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    remote_store: str | None = None

    @property
    def cluster(self) -> Cluster | None:
        """The Ray cluster to render on, or None to render in this process."""
        if self.engine == "local":
            return None
        return Cluster(self.address, self.workers, self.gpus_per_worker)


def read_engine(root: Path) -> EngineSettings:
    """Read the settings; raise InvalidValueError if a setting is unknown or out of range."""
    if "GENIE_SHARED_STORE" in os.environ:
        raise InvalidValueError(
            "is no longer read", argument="GENIE_SHARED_STORE", remedy="set GENIE_REMOTE_STORE"
        )
    file = work_folder(root) / "engine.yaml"
    given: dict[str, Any] = {}
    if file.is_file():
        given = _content(file)
    given |= {key: os.environ[name] for key, name in VARIABLES.items() if os.environ.get(name)}
    try:
        return EngineSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise InvalidValueError(
            f"{key} of the engine ({VARIABLES.get(key, 'no variable')}, or {file}): {first['msg']}",
            value=first["input"],
            remedy=f"the settings are {', '.join(VARIABLES)} (docs/reference/engine.md)",
        ) from None


def _content(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidValueError(
            f"is not valid YAML: {one_line(error)}", argument=str(file), remedy="correct it"
        ) from error
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InvalidValueError(
            "must be a mapping of settings", argument=str(file), value=found, remedy="correct it"
        )
    return found
