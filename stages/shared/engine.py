"""Who renders: this process or workers of Ray, and which shared store holds images.

Settings come from environment variables, or else from `.genie/engine.yaml`, which git ignores. They
are no parameters, because they do not change what is rendered.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from genie.errors import GenieError, one_line
from genie.generate.cluster import Cluster

from .params import Section, shown
from .places import store_folder

VARIABLES = {
    "engine": "GENIE_ENGINE",
    "address": "GENIE_RAY_ADDRESS",
    "workers": "GENIE_RAY_WORKERS",
    "gpus_per_worker": "GENIE_RAY_GPUS_PER_WORKER",
    "shared_store": "GENIE_SHARED_STORE",
}
"""The environment variable of each setting; a variable that is set wins over the file."""


class Engine(Section):
    """The settings of the engine; see docs/engine.md."""

    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    shared_store: str | None = None

    @property
    def cluster(self) -> Cluster | None:
        """The cluster on which Ray renders, or None where this process does."""
        if self.engine == "local":
            return None
        return Cluster(self.address, self.workers, self.gpus_per_worker)


def read_engine(root: Path) -> Engine:
    """Read the settings; raise GenieError for one that is unknown or out of range."""
    file = store_folder(root).parent / "engine.yaml"
    given: dict[str, Any] = {}
    if file.is_file():
        given = _content(file)
    given |= {key: os.environ[name] for key, name in VARIABLES.items() if os.environ.get(name)}
    try:
        return Engine(**given)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise GenieError(
            f"{key} of the engine ({VARIABLES.get(key, 'no variable')}, or {file}): "
            f"{first['msg']}, got {shown(first['input'])}; the settings are "
            f"{', '.join(VARIABLES)} (docs/engine.md)"
        ) from None


def _content(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GenieError(f"{file} must be YAML, but: {one_line(error)}; correct it") from error
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise GenieError(f"{file} must hold settings by name, got {shown(found)}; correct it")
    return found
