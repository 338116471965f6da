"""Checks from dvc.lock that metrics belong to the parameters in params.yaml.

For each stage, dvc.lock records the parameters of the last run, and the MD5 of each input and
output. After a partial run, a failed run or an edit, metrics/ may still contain the results of
earlier parameters.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dvc.utils.serialize import ParseError, parse_yaml

from genie.cli.dvc_cache import md5
from genie.core.errors import shown

RESULTS = ("metrics/tasks.csv", "metrics/evaluate.json", "metrics/cost.json")
"""The files that contain the result of a run."""

PARAMS = "params.yaml"

Listing = Callable[[str], Mapping[str, str] | None]
"""Maps the MD5 of a folder to the MD5 of each file by name, or to None if the cache lacks it."""

_UNREADABLE = (ParseError, AttributeError, KeyError, TypeError)
_ABSENT = object()


@dataclass(frozen=True)
class _Stage:
    """The record of a stage in dvc.lock: parameters by dotted key, and MD5 by path."""

    params: Mapping[str, Any]
    deps: Mapping[str, str]
    outs: Mapping[str, str]


def mismatch(
    lock: str, params: str, results: Mapping[str, bytes | None], listing: Listing
) -> str | None:
    """Return the reason why results do not match the parameters, or None if they match.

    `lock` and `params` are the texts of dvc.lock and params.yaml. `results` maps paths to file
    contents, or to None if a content is not to be compared with its MD5. The reason names the first
    stage that has to run.
    """
    try:
        stages = _stages(parse_yaml(lock, "dvc.lock"))
        values = parse_yaml(params, PARAMS)  # as DVC reads them: YAML 1.2, where 1e-3 is a number
    except _UNREADABLE:
        return "dvc.lock and params.yaml cannot be read together"
    makers = {path: name for name, stage in stages.items() for path in stage.outs}
    for path in results:
        if path not in makers:
            return f"no stage in dvc.lock made {path}"
    for name in _upstream(stages, makers, dict.fromkeys(makers[path] for path in results)):
        reason = _other_parameters(stages[name], values) or _other_inputs(
            stages, makers, name, listing
        )
        if reason:
            return f"stage {name} ran with {reason}"
    for path, content in results.items():
        recorded = stages[makers[path]].outs[path]
        if content is not None and recorded not in (md5(content), md5(_unix(content))):
            return f"stage {makers[path]} made another {path}"
    return None


def recorded_parameter(lock: str, path: str, key: str) -> Any:
    """Return the value of a parameter in the last run of the stage that wrote a file.

    Raise KeyError if dvc.lock does not record the parameter or cannot be read.
    """
    try:
        stages = _stages(parse_yaml(lock, "dvc.lock"))
    except _UNREADABLE:
        raise KeyError(key) from None
    maker = next((s for s in stages.values() if path in s.outs), None)
    found = _ABSENT if maker is None else _value(_nested(maker.params), key)
    if found is _ABSENT:
        raise KeyError(key)
    return found


def _nested(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert dotted keys to nested sections."""
    nested: dict[str, Any] = {}
    for key, value in params.items():
        *sections, last = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return nested


def _stages(lock: Mapping[str, Any]) -> dict[str, _Stage]:
    """Return the record of each stage in dvc.lock."""
    return {
        name: _Stage(
            dict(stage.get("params", {}).get(PARAMS, {})),
            *({e["path"]: e.get("md5", "") for e in stage.get(kind, [])} for kind in _FILES),
        )
        for name, stage in lock.get("stages", {}).items()
    }


_FILES = ("deps", "outs")


def _upstream(
    stages: Mapping[str, _Stage], makers: Mapping[str, str], last: Mapping[str, None]
) -> Iterator[str]:
    """Yield the stages in `last` and all stages that they depend on, dependencies first."""
    seen: set[str] = set()

    def before(name: str) -> Iterator[str]:
        if name in seen:
            return
        seen.add(name)
        for path in stages[name].deps:
            if out := _out_with(path, makers):
                yield from before(makers[out])
        yield name

    for name in last:
        yield from before(name)


def _out_with(path: str, makers: Mapping[str, str]) -> str | None:
    """Return the stage output that is or contains a path, or None."""
    parts = path.split("/")
    ways = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((way for way in ways if way in makers), None)


def _other_parameters(stage: _Stage, values: Mapping[str, Any]) -> str | None:
    """Name the first parameter whose value has changed since the stage ran."""
    for key, value in sorted(stage.params.items()):
        now = _value(values, key)
        if now != value:
            return _difference(key, value, now)
    return None


def _difference(key: str, value: Any, now: Any) -> str:
    """Name the first value that differs in a parameter, which may be a whole section."""
    if isinstance(value, Mapping) and isinstance(now, Mapping):
        for leaf in [*value, *now]:
            old, new = value.get(leaf, _ABSENT), now.get(leaf, _ABSENT)
            if old != new:
                return _difference(f"{key}.{leaf}", old, new)
    text = "none" if now is _ABSENT else shown(now)
    old = "no value" if value is _ABSENT else shown(value)
    return f"{key} {old}, {PARAMS} has {text}"


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part, _ABSENT) if isinstance(values, Mapping) else _ABSENT
    return values


def _other_inputs(
    stages: Mapping[str, _Stage], makers: Mapping[str, str], name: str, listing: Listing
) -> str | None:
    """Name the first input that another stage has rewritten since the stage read it."""
    for path, was in stages[name].deps.items():
        out = _out_with(path, makers)
        if out is None:
            continue
        maker = makers[out]
        made = stages[maker].outs[out]
        if out == path:
            if was != made:
                return f"another {path} than stage {maker} made since"
            continue
        files = listing(made)
        if files is not None:
            if files.get(path.removeprefix(f"{out}/")) != was:
                return f"another {path} than stage {maker} made since"
        elif not _seen_together(stages, path, was, stages[maker]):
            return f"{path} of an unknown run of stage {maker} (`dvc fetch {maker}` may tell)"
    return None


def _seen_together(stages: Mapping[str, _Stage], path: str, was: str, maker: _Stage) -> bool:
    """Return whether any stage read this version of a file together with its maker's last outputs.

    dvc.lock records one MD5 for a whole folder, so it does not show which files the folder
    contains.
    """
    for stage in stages.values():
        both = stage.deps.keys() & maker.outs.keys()
        if (
            both
            and stage.deps.get(path) == was
            and all(stage.deps[p] == maker.outs[p] for p in both)
        ):
            return True
    return False


def _unix(content: bytes) -> bytes:
    """Return a text with Unix line ends, which it had when it was recorded."""
    return content.replace(b"\r\n", b"\n")
