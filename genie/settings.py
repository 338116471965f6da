"""The schema of params.yaml as frozen pydantic models, and its conversion to library settings.

Only this module reads params.yaml. The settings classes (`Levels`, `Prompts`, `RenderSettings`,
...) are defined next to the code that they configure. They are imported inside functions, because
most stages need only a few of them. No import of a settings class loads torch.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from genie.core.errors import (
    InvalidValueError,
    MissingFileError,
    one_line,
    require_choice,
    shown,
)

if TYPE_CHECKING:
    from genie.classify.settings import TrainingSettings
    from genie.classify.tasks import Recipe
    from genie.data.prompts import Prompts
    from genie.data.tasks import Draws
    from genie.plan.augmentation import Augmentation
    from genie.plan.levels import Levels
    from genie.plan.methods import Method
    from genie.render.model_info import RenderSettings

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Side = Annotated[int, Field(ge=1, le=8192)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]


@dataclass(frozen=True)
class Argument:
    """The name of the library argument that a key sets, if it differs from the end of the key."""

    name: str


def _named(path: Path) -> Path:
    if path == Path():
        raise ValueError("a path must name a file or folder, got an empty one")
    if "\0" in str(path) or len(str(path)) > 4000 or any(len(p.encode()) > 255 for p in path.parts):
        raise ValueError(f"a path must be valid for the file system, got {shown(str(path))}")
    return path


ExistingPath = Annotated[Path, AfterValidator(_named)]
"""A path whose existence the stage `validate` checks."""


class Section(BaseModel):
    """A section of params.yaml, immutable and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class Data(Section):
    path: ExistingPath
    size: Side | None
    crop: Literal["centre", "pad", "squash"] = "centre"
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
    min_position: float | None
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
    min_text: Cosine
    min_image: Cosine
    clip: ExistingPath


class Sources(Section):
    strategy: Annotated[Literal["confusion", "random", "distant", "all"], Argument("sources")]
    top_k: Count


class PromptSection(Section):
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
        """The path of the file with readable class names."""
        return self.folder / "names.csv"

    @property
    def captions(self) -> Path:
        """The path of the file with captions of support images."""
        return self.folder / "captions.csv"

    @property
    def contexts(self) -> Path:
        """The path of the file with contextual prompts."""
        return self.folder / "contexts.csv"

    @model_validator(mode="after")
    def _names_the_class(self) -> Self:
        for template in self.templates:
            if "{class}" not in template:
                raise ValueError(f'prompt.template must contain "{{class}}", got {shown(template)}')
        return self


class GeneratorSection(Section):
    model: ExistingPath
    steps: Annotated[int, Field(ge=1, le=1000)] | None
    guidance_scale: Annotated[float, Field(ge=0)] | None
    batch_size: Count | Literal["probe"] | None
    compile: bool | None
    dtype: Literal["float32", "bfloat16", "float16"] | None
    unknown_classes: Literal["stop", "allow"]


class Inversion(Section):
    steps: Annotated[Count, Argument("inversion_steps")]


class ClassifierSection(Section):
    backbone: Annotated[ExistingPath, Argument("embedder")]
    head: Literal["logistic", "svm", "prototype", "finetune"]
    start: Literal["backbone", "scratch", "prompts"]
    steps: Annotated[Count, Argument("training_steps")]
    batch_size: Annotated[int, Field(ge=2), Argument("training_batch_size")]
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
    model: Annotated[ExistingPath, Argument("oracle")]


class Params(Section):
    """All parameters in params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: Data
    method: str
    noise: Noise
    augment: Augment
    filter: Filter
    sources: Sources
    prompt: PromptSection
    generator: GeneratorSection
    inversion: Inversion
    classifier: ClassifierSection
    oracle: Oracle

    @field_validator("method")
    @classmethod
    def _is_registered(cls, method: str) -> str:
        from genie.plan.methods import METHODS

        require_choice("method", method, METHODS)
        return method


# Keys without effect


def ignored_keys(params: Params) -> dict[str, str]:
    """Return the keys that have no effect, each with the value of a key that disables it."""
    from genie.plan.methods import METHODS, genie

    method, by_method = METHODS[params.method], f"method {params.method}"
    rule = params.filter.rule or method.rule
    ratio_only = ("low", "high", "M", "min_position", "search")
    found: dict[str, str] = {}

    def ignore(reason: str, section: str, *names: str) -> None:
        for name in names or Params.model_fields[section].annotation.model_fields:  # type: ignore
            found.setdefault(f"{section}.{name}", reason)

    if not method.renders:
        for section in ("noise", "generator", "filter"):
            ignore(by_method, section)
        ignore(by_method, "augment", "shards")
        ignore(by_method, "prompt", "negative")
        if params.classifier.start != "prompts":
            ignore(by_method, "prompt", "template", "superclass")
    elif method.ratio is None and not method.searches and not method.by_shots:
        ignore(by_method, "noise")
    elif not method.searches:
        ignore(by_method, "noise", *ratio_only)
    elif params.noise.r != "ada":
        ignore(f"noise.r {params.noise.r:g}", "noise", *ratio_only)
    if method.templates:
        ignore(by_method, "prompt", "template")
    if method.plan is not genie:
        ignore(by_method, "sources")
    elif params.sources.strategy == "all":
        ignore("sources.strategy all", "sources", "top_k")
    if not method.learns:
        ignore(by_method, "inversion")
    if rule == "none":
        ignore("filter.rule none", "filter", "attempts")
    if rule != "cosine":
        ignore(f"filter.rule {rule}", "filter", "min_text", "min_image")
    if params.classifier.head != "finetune":
        training = ("start", "steps", "batch_size", "learning_rate", "loss")
        ignore(f"classifier.head {params.classifier.head}", "classifier", *training)
    regime = params.data.regime
    by_regime = f"data.regime {regime}"
    if regime not in ("shots", "episodes"):
        ignore(by_regime, "data", "shots")
    if regime != "longtail":
        ignore(by_regime, "data", "imbalance")
    if regime != "episodes":
        ignore(by_regime, "data", "n_way", "n_query", "pool")
    return found


def ineffective_changes(params: Params, before: Params) -> str:
    """Return a sentence about changed keys that have no effect, or "" if there are none."""
    keys: dict[str, list[str]] = {}
    for key, reason in ignored_keys(params).items():
        value = attrgetter(key)
        if value(params) != value(before):
            keys.setdefault(reason, []).append(key)
    return "; ".join(
        f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} no effect with {reason}"
        for reason, names in keys.items()
    )


# Values of the library


def levels(params: Params) -> "Levels":
    """Return the noise levels that GeNIe-Ada compares."""
    from genie.plan.levels import Levels

    noise = params.noise
    return Levels(noise.low, noise.high, noise.M, noise.min_position, noise.search)


def prompts(params: Params) -> "Prompts":
    """Return the components of prompts, reading only the files that the method needs."""
    from genie.data.prompts import Prompts, read_captions, read_contexts, read_names
    from genie.plan.methods import METHODS

    prompt, method = params.prompt, METHODS[params.method]
    return Prompts(
        templates=prompt.templates,
        superclass=prompt.superclass,
        negative=prompt.negative,
        names=read_names(prompt.names),
        captions=read_captions(prompt.captions) if method.captions else None,
        contexts=read_contexts(prompt.contexts) if method.contexts else None,
    )


def augmentation(params: Params) -> "Augmentation":
    """Return the settings of the augmentation set."""
    from genie.plan.augmentation import Augmentation, FilterSettings

    given = params.filter
    return Augmentation(
        method=params.method,
        r=params.noise.r,
        levels=levels(params),
        per_class=params.augment.per_class,
        classes=params.augment.classes,
        every_source=params.sources.strategy == "all",
        prompts=prompts(params),
        filter=FilterSettings(
            given.rule, given.attempts, given.min_text, given.min_image, given.clip
        ),
        seed=params.seed,
        inversion_steps=params.inversion.steps,
        unknown_classes=params.generator.unknown_classes,
    )


def render_settings(params: Params) -> "RenderSettings":
    """Return the render settings."""
    from genie.render.model_info import RenderSettings

    given = params.generator
    return RenderSettings(
        given.steps, given.guidance_scale, given.batch_size, given.compile, given.dtype
    )


def training_settings(params: Params) -> "TrainingSettings":
    """Return the training settings of classifiers."""
    from genie.classify.settings import TrainingSettings
    from genie.data.prompts import Prompts, read_names

    given, prompt = params.classifier, params.prompt
    prompt_of = None
    if given.start == "prompts":
        words = Prompts(prompt.templates, prompt.superclass, names=read_names(prompt.names))
        prompt_of = lambda name: words.wording(name).prompt  # noqa: E731
    return TrainingSettings(
        head=given.head,
        backbone=given.backbone,
        start=given.start,
        steps=given.steps,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        loss=given.loss,
        seed=params.seed,
        prompt_of=prompt_of,
    )


def training_recipe(
    params: Params, method: "Method | None" = None, real_passes: int = 1
) -> "Recipe":
    """Return the recipe for training classifiers on a method's images, or only on real images."""
    from genie.classify.tasks import Recipe
    from genie.data.tasks import generated_per_class

    return Recipe(
        training=training_settings(params),
        per_class=partial(
            generated_per_class,
            per_class=params.augment.per_class,
            classes=params.augment.classes,
            every_source=params.sources.strategy == "all",
        ),
        copier=method.copier if method else "weak",
        mixer=method.mixer if method else None,
        mixes_with_sources=method.mixes_with_sources if method else False,
        real_passes=real_passes,
    )


def draws(params: Params) -> "Draws":
    """Return the settings for drawing tasks."""
    from genie.data.tasks import Draws

    data = params.data
    return Draws(
        regime=data.regime,
        seed=params.seed,
        shots=data.shots,
        tasks=data.tasks,
        imbalance=data.imbalance,
        n_way=data.n_way,
        n_query=data.n_query,
        pool=data.pool,
    )


def require_paths(params: Params) -> None:
    """Raise MissingFileError for the first path in the parameters that does not exist."""
    if not params.data.path.exists():
        raise MissingFileError(
            "must be an existing image folder, Parquet file or saved data set",
            argument="path",
            value=str(params.data.path),
            remedy="give an existing path or download a data set with `genie fetch ID "
            f"{params.data.path} --kind dataset`",
        )
    for file in (params.prompt.names, params.prompt.captions, params.prompt.contexts):
        if not file.is_file():
            raise MissingFileError(
                f"must contain names.csv, captions.csv and contexts.csv; {file} does not exist",
                argument="folder",
                remedy="start from a copy of the one in prompts/",
            )
    models = {
        "model": params.generator.model,
        "embedder": params.classifier.backbone,
        "oracle": params.oracle.model,
        "clip": params.filter.clip,
    }
    for argument, folder in models.items():
        if not folder.is_dir():
            raise MissingFileError(
                "must be an existing model folder",
                argument=argument,
                value=str(folder),
                remedy=f"download one with `genie fetch ID {folder}`",
            )


# Reading


def read_params(path: Path) -> Params:
    """Read and validate a YAML file.

    Raise GenieError with the invalid keys, their values, and the rules that they break.
    """
    return check_params(read_yaml(path), where=str(path))


def check_params(raw: Mapping[str, Any], *, where: str) -> Params:
    """Validate a mapping of values.

    Raise GenieError with the invalid keys, their values, and the rules that they break.
    """
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = list(dict.fromkeys(one_line(ValueError(_explain(e))) for e in error.errors()))
        more = f"; and {len(lines) - _MOST} more" if len(lines) > _MOST else ""
        raise InvalidValueError(f"{where}: " + "; ".join(lines[:_MOST]) + more) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raise GenieError if the file is missing, is not valid YAML, or does not contain a mapping.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(
            "does not exist", argument=str(path), remedy="name an existing parameter file"
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # or invalid UTF-8
        raise InvalidValueError(
            f"is not valid YAML: {one_line(error)}", argument=str(path)
        ) from None
    if not isinstance(raw, dict):
        raise InvalidValueError("must contain sections of keys", argument=str(path), value=raw)
    return raw


_MOST = 10  # maximum number of invalid keys in one message
_MESSAGES = {
    "noise.r": 'must be "ada" or in (0, 1]',
    "noise.M": "must be an integer of at least 2",
}


MOVED = {
    "classifier.initial": "classifier.start",
    "classifier.pretrained": "classifier.start (backbone or scratch)",
    "data.episodes": "data.tasks",
    "data.n_shot": "data.shots",
    "filter.least_image": "filter.min_image",
    "filter.least_text": "filter.min_text",
    "inversion.batch_size": "the constant BATCH_SIZE of genie/render/adapters.py",
    "inversion.learning_rate": "the constant LEARNING_RATE of genie/render/adapters.py",
    "noise.least": "noise.min_position",
    "noise.preview_steps": "the constant PREVIEW_STEPS of genie/choose/search.py",
    "noise.unclear": "the constant UNCLEAR of genie/core/tables.py",
    "prompt.captions": "captions.csv in prompt.folder",
    "prompt.contexts": "contexts.csv in prompt.folder",
    "prompt.names": "names.csv in prompt.folder",
}
"""Maps keys of earlier versions to their replacements.

When records in protocols/ are read, an old key becomes the first word of its replacement.
"""


def _explain(error: Any) -> str:
    """Return the message of a pydantic error."""
    where = [str(part)[:100] for part in error["loc"]]
    known = ".".join(where[:2])
    if error["type"] == "extra_forbidden":
        return _unknown_key(where)
    if error["type"] == "value_error":
        text = str(error["ctx"]["error"])
        return text if known in text else f"{known}: {text}"
    if error["type"] == "missing":
        return f"{known} is missing; the committed params.yaml describes every key"
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
    if key in MOVED:
        return f"{key} is no longer a key; use {MOVED[key]}"
    fields: Any = Params.model_fields
    for part in where[:-1]:
        fields = fields[part].annotation.model_fields
    nearest = difflib.get_close_matches(where[-1], fields, n=1, cutoff=0)
    return f"{key} is not a known key; did you mean {'.'.join([*where[:-1], *nearest])}?"
