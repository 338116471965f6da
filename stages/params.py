"""params.yaml as typed values, checked as a whole before any work starts."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from genie.errors import GenieError

Count = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
Path_ = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of params.yaml: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Data(Section):
    path: Path_
    size: Count | None
    query_fraction: Annotated[float, Field(gt=0, lt=1)]
    regime: Literal["all", "shots", "longtail", "episodes"]
    tasks: Count
    shots: Count
    imbalance: Annotated[float, Field(ge=1)] | None
    n_way: Annotated[int, Field(ge=2)]
    n_shot: Count
    n_query: Count | None
    episodes: Count
    pool: Count | None


class Noise(Section):
    r: Literal["ada"] | Ratio
    M: Annotated[int, Field(ge=2)]
    low: Ratio
    high: Ratio
    search: Literal["exact", "preview"]
    preview_steps: Annotated[int, Field(ge=2)]
    unclear: Annotated[float, Field(ge=1)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"noise.low must be below noise.high, got {self.low} and {self.high}")
        return self


class Augment(Section):
    per_class: Count
    classes: Literal["all", "few"]
    real_passes: Count


class Filter(Section):
    rule: Literal["none", "classifier", "clip", "cosine"] | None
    attempts: Count
    least_text: Cosine
    least_image: Cosine
    clip: Path_


class Sources(Section):
    strategy: Literal["confusion", "random", "distant", "all"]
    top_k: Count


class Prompt(Section):
    template: str | Annotated[list[str], Field(min_length=1)]
    superclass: str | None
    names: Path_
    captions: Path_
    contexts: Path_
    negative: str

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates that take turns."""
        return (self.template,) if isinstance(self.template, str) else tuple(self.template)

    @model_validator(mode="after")
    def _names_the_class(self) -> Self:
        for template in self.templates:
            if "{class}" not in template:
                raise ValueError(f'prompt.template must contain "{{class}}", got "{template}"')
        return self


class GeneratorParams(Section):
    model: Path_
    steps: Annotated[int, Field(ge=1, le=1000)] | None
    guidance_scale: Annotated[float, Field(ge=0)] | None
    batch_size: Count | Literal["probe"] | None
    compile: bool | None
    dtype: Literal["float32", "bfloat16", "float16"] | None


class Inversion(Section):
    steps: Count
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Count


class Classifier(Section):
    backbone: Path_
    head: Literal["logistic", "svm", "prototype", "finetune"]
    pretrained: bool
    initial: Literal["random", "prompts"]
    steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    learning_rate: Annotated[float, Field(gt=0)]
    loss: Literal["cross-entropy", "logit-adjustment", "bal-bce"]

    @model_validator(mode="after")
    def _prompts_start_a_pretrained_network(self) -> Self:
        if self.initial == "prompts" and (self.head != "finetune" or not self.pretrained):
            raise ValueError(
                'classifier.initial "prompts" starts the head of a pretrained CLIP: set '
                f"classifier.head to finetune and classifier.pretrained to true, got {self.head} "
                f"and {str(self.pretrained).lower()}"
            )
        return self


class Oracle(Section):
    model: Path_


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0)]
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
        "diffcore-mix",
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
    """Params of the YAML file; GenieError names each bad key, its value and the rule."""
    raw = read_yaml(path)
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(e) for e in error.errors())
        raise GenieError(f"{path}: " + "; ".join(lines)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; GenieError if there is none."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GenieError(f"{path} does not exist; name an existing parameter file") from None
    except yaml.YAMLError as error:
        raise GenieError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise GenieError(f"{path} must hold sections of keys, got {raw!r}")
    return raw


_RULES = {
    "noise.r": 'must be "ada" or in (0, 1]',
    "noise.M": "must be an integer of at least 2",
}


def _explain(error: Any) -> str:
    """One pydantic error in a user's words."""
    where = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return _unknown_key(where)
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    known = ".".join(where[:2])
    if error["type"] == "missing":
        return f"{known} is missing; the committed params.yaml shows each key with its meaning"
    if error["type"] == "literal_error" and known not in _RULES:
        return _unknown_choice(known, error)
    rule = _RULES.get(known, error["msg"][0].lower() + error["msg"][1:])
    return (
        f"{known}: {rule}, got {error['input']!r}"
        if known not in _RULES
        else (f"{known} {rule}, got {error['input']!r}")
    )


def _unknown_choice(key: str, error: Any) -> str:
    choices = re.findall("'([^']+)'", error["ctx"]["expected"])
    nearest = difflib.get_close_matches(str(error["input"]), choices, n=1, cutoff=0)
    return (
        f"{key} must be one of {', '.join(choices)}, got {error['input']!r}; "
        f"did you mean {nearest[0]}?"
    )


def _unknown_key(where: list[str]) -> str:
    fields: Any = Params.model_fields
    for part in where[:-1]:
        fields = fields[part].annotation.model_fields
    nearest = difflib.get_close_matches(where[-1], fields, n=1, cutoff=0)
    return (
        f"{'.'.join(where)} is not a known key; did you mean {'.'.join([*where[:-1], *nearest])}?"
    )
