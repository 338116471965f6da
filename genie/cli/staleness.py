"""A check, by dvc.lock, that recorded metrics are the result of the parameters beside them."""

from collections.abc import Mapping
from typing import Any

RESULT = "evaluate"
"""The stage that writes the metrics."""


def stage_to_run(lock: Mapping[str, Any], params: Mapping[str, Any]) -> str | None:
    """Return the first stage that has not run with these parameters, None if all have.

    `lock` is the content of dvc.lock and `params` that of params.yaml. A stage counts as not run if
    dvc.lock records other values for its parameters, or other content for an input than the stage
    that wrote this input. Only stages up to `evaluate`, which writes the metrics, count.
    """
    stages: Mapping[str, Any] = lock.get("stages", {})
    written: dict[str, object] = {}
    for name, stage in stages.items():
        recorded = stage.get("params", {}).get("params.yaml", {})
        same_params = all(_value(params, key) == value for key, value in recorded.items())
        inputs = {dep["path"]: dep.get("md5") for dep in stage.get("deps", [])}
        same_inputs = all(inputs[path] == written[path] for path in inputs.keys() & written.keys())
        if not (same_params and same_inputs):
            return name
        if name == RESULT:
            return None
        written |= {out["path"]: out.get("md5") for out in stage.get("outs", [])}
    return None


def _value(params: Mapping[str, Any], key: str) -> object:
    """Return the value of a dotted key, or of a section."""
    found: Any = params
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
