"""Typed parameters from params.yaml, validated before any work starts."""

import difflib
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from genie.errors import GenieError, one_line

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Side = Annotated[int, Field(ge=1, le=8192)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def shown(value: object) -> str:
    """Return a value as messages show it, shortened if it is long or nested."""
    return _SHORT.repr(value)


def _named(path: Path) -> Path:
    if path == Path():
        raise ValueError("a path must name a file or folder, got an empty one")
    if "\0" in str(path) or len(str(path)) > 4000 or any(len(p.encode()) > 255 for p in path.parts):
        raise ValueError(f"a path must be one that a file system allows, got {shown(str(path))}")
    return path


ExistingPath = Annotated[Path, AfterValidator(_named)]
"""A path whose existence the stage `validate` checks."""


class Section(BaseModel):
    """A section of params.yaml, immutable and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class Data(Section):
    path: ExistingPath
    size: Side | None
    broken: Literal["stop", "skip"]
    query_fraction: Annotated[float, Field(gt=0, lt=1)]
    regime: Literal["all", "shots", "longtail", "episodes"]
    tasks: Count
    shots: Count
    imbalance: Annotated[float, Field(ge=1)] | None
    n_way: Annotated[int, Field(ge=2)]
    n_query: Count | None
    pool: Count | None


class Noise(Section):
    r: Literal["ada"] | Ratio
    M: Annotated[int, Field(ge=2)]
    low: Ratio
    high: Ratio
    least: float | None
    search: Literal["exact", "preview"]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"noise.low must be below noise.high, got {self.low} and {self.high}")
        return self


class Augment(Section):
    per_class: Count
    classes: Literal["all", "few"]
    real_passes: Count
    shards: Count | None


class Filter(Section):
    rule: Literal["none", "classifier", "clip", "cosine"] | None
    attempts: Count
    least_text: Cosine
    least_image: Cosine
    clip: ExistingPath


class Sources(Section):
    strategy: Literal["confusion", "random", "distant", "all"]
    top_k: Count


class Prompt(Section):
    template: str | Annotated[list[str], Field(min_length=1)]
    superclass: str | None
    negative: str
    folder: ExistingPath

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompt templates, which are used in turn."""
        return (self.template,) if isinstance(self.template, str) else tuple(self.template)

    @property
    def names(self) -> Path:
        """Path of the file with readable class names."""
        return self.folder / "names.csv"

    @property
    def captions(self) -> Path:
        """Path of the file with captions of support images."""
        return self.folder / "captions.csv"

    @property
    def contexts(self) -> Path:
        """Path of the file with contextual prompts."""
        return self.folder / "contexts.csv"

    @model_validator(mode="after")
    def _names_the_class(self) -> Self:
        for template in self.templates:
            if "{class}" not in template:
                raise ValueError(f'prompt.template must contain "{{class}}", got "{template}"')
        return self


class GeneratorParams(Section):
    model: ExistingPath
    steps: Annotated[int, Field(ge=1, le=1000)] | None
    guidance_scale: Annotated[float, Field(ge=0)] | None
    batch_size: Count | Literal["probe"] | None
    compile: bool | None
    dtype: Literal["float32", "bfloat16", "float16"] | None
    unknown_classes: Literal["stop", "allow"]


class Inversion(Section):
    steps: Count


class Classifier(Section):
    backbone: ExistingPath
    head: Literal["logistic", "svm", "prototype", "finetune"]
    start: Literal["backbone", "scratch", "prompts"]
    steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    learning_rate: Annotated[float, Field(gt=0)]
    loss: Literal["cross-entropy", "logit-adjustment", "bal-bce"]

    @model_validator(mode="after")
    def _prompts_start_a_network(self) -> Self:
        if self.start == "prompts" and self.head != "finetune":
            raise ValueError(
                'classifier.start "prompts" starts the head of a network: set classifier.head to '
                f"finetune, got {self.head}"
            )
        return self


class Oracle(Section):
    model: ExistingPath


class Params(Section):
    """All parameters of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: Data
    method: Literal[
        "none",
        "weak",
        "strong",
        "cutmix",
        "mixup",
        "img2img",
        "txt2img",
        "da-fusion",
        "cap2aug",
        "diff-mix",
        "diffcore-mix",
        "diffusemix",
        "real-guidance",
        "genie",
    ]
    noise: Noise
    augment: Augment
    filter: Filter
    sources: Sources
    prompt: Prompt
    generator: GeneratorParams
    inversion: Inversion
    classifier: Classifier
    oracle: Oracle


def read_params(path: Path) -> Params:
    """Read and validate a YAML file; a GenieError names each bad key, its value and the rule."""
    return check_params(read_yaml(path), where=str(path))


def check_params(raw: Mapping[str, Any], *, where: str) -> Params:
    """Validate plain values; a GenieError names each bad key, its value and the rule."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = list(dict.fromkeys(one_line(ValueError(_explain(e))) for e in error.errors()))
        more = f"; and {len(lines) - _MOST} more" if len(lines) > _MOST else ""
        raise GenieError(f"{where}: " + "; ".join(lines[:_MOST]) + more) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raise GenieError if the file is missing, is not valid YAML or holds no mapping.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GenieError(f"{path} does not exist; name an existing parameter file") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # wrong UTF-8 too
        raise GenieError(f"{path} is not valid YAML: {one_line(error)}") from None
    if not isinstance(raw, dict):
        raise GenieError(f"{path} must hold sections of keys, got {shown(raw)}")
    return raw


_MOST = 10  # of the wrong keys in one message
_MESSAGES = {
    "noise.r": 'must be "ada" or in (0, 1]',
    "noise.M": "must be an integer of at least 2",
}


_MOVED = {
    "classifier.initial": "classifier.start",
    "classifier.pretrained": "classifier.start (backbone or scratch)",
    "data.episodes": "data.tasks",
    "data.n_shot": "data.shots",
    "inversion.batch_size": "the constant BATCH_SIZE of genie/generate/inversion.py",
    "inversion.learning_rate": "the constant LEARNING_RATE of genie/generate/inversion.py",
    "noise.preview_steps": "the constant PREVIEW_STEPS of genie/generate/search.py",
    "noise.unclear": "the constant UNCLEAR of genie/data/augmented_set.py",
    "prompt.captions": "captions.csv in prompt.folder",
    "prompt.contexts": "contexts.csv in prompt.folder",
    "prompt.names": "names.csv in prompt.folder",
}
"""Keys of earlier versions and their replacements."""


def _explain(error: Any) -> str:
    """Return the message for a pydantic error."""
    where = [str(part)[:100] for part in error["loc"]]
    known = ".".join(where[:2])
    if error["type"] == "extra_forbidden":
        return _unknown_key(where)
    if error["type"] == "value_error":
        text = str(error["ctx"]["error"])
        return text if known in text else f"{known}: {text}"
    if error["type"] == "missing":
        return f"{known} is missing; the committed params.yaml shows each key with its meaning"
    if error["type"] == "literal_error" and known not in _MESSAGES:
        return _unknown_choice(known, error)
    if known in _MESSAGES:
        return f"{known} {_MESSAGES[known]}, got {shown(error['input'])}"
    rule = error["msg"][0].lower() + error["msg"][1:]
    return f"{known}: {rule}, got {shown(error['input'])}"


def _unknown_choice(key: str, error: Any) -> str:
    choices = re.findall("'([^']+)'", error["ctx"]["expected"])
    nearest = difflib.get_close_matches(str(error["input"]), choices, n=1, cutoff=0)
    return (
        f"{key} must be one of {', '.join(choices)}, got {shown(error['input'])}; "
        f"did you mean {nearest[0]}?"
    )


def _unknown_key(where: list[str]) -> str:
    key = ".".join(where)
    if key in _MOVED:
        return f"{key} is no longer a key; it is {_MOVED[key]} now"
    fields: Any = Params.model_fields
    for part in where[:-1]:
        fields = fields[part].annotation.model_fields
    nearest = difflib.get_close_matches(where[-1], fields, n=1, cutoff=0)
    return f"{key} is not a known key; did you mean {'.'.join([*where[:-1], *nearest])}?"
