"""Generation as the parameters specify it: planning, prompts, search and filter."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from genie.classify.classifier import Classifier
from genie.classify.clip import load_clip
from genie.classify.examples import Examples
from genie.data.wording import (
    read_captions,
    read_contexts,
    read_names,
    require_captions,
    wording_in_turn,
)
from genie.generate.described import Described
from genie.generate.filters import ASK_CLIP, Judge
from genie.generate.inversion import InversionSettings, learned_names
from genie.generate.methods import METHODS, WordingOf, noise_ratios, plan_tasks
from genie.generate.model import load_generator
from genie.generate.noise import warn_of_equal_levels
from genie.generate.renderer import Cost, Renderer, load_renderer
from genie.generate.request import Wanted
from genie.generate.search import (
    PREVIEW_STEPS,
    Landmarks,
    Trajectory,
    exact,
    preview,
    preview_steps,
)
from genie.generate.shared import open_shared
from genie.tables import SOURCES, read_table

from .engine import Engine
from .params import Params
from .places import features_file, store_folder, tokens_folder
from .progress import bar
from .settings import images_per_class, prompt_of
from .signals import before_batch, rendering


def renderer_of(
    params: Params,
    root: Path,
    images: pd.DataFrame,
    *,
    on_image: Callable[[int], None],
    engine: Engine,
) -> Renderer:
    """Load the renderer that the parameters specify, with the support images as sources.

    `on_image` is called with the guided steps of each image.
    """
    given = params.generator
    return load_renderer(
        given.model,
        sources=dict(zip(images["image_id"], images["png"], strict=True)),
        store=store_folder(root),
        steps=given.steps,
        guidance_scale=given.guidance_scale,
        batch_size=given.batch_size,
        compile=given.compile,
        dtype=_dtype(params),
        watch=lambda drawn, total: rendering(
            bar(drawn, total=total, label="generate", unit="image")
        ),
        before_batch=before_batch,
        on_image=on_image,
        cluster=engine.cluster,
        shared=open_shared(engine.shared_store) if engine.shared_store else None,
    )


def _dtype(params: Params) -> torch.dtype | None:
    name = params.generator.dtype
    return getattr(torch, name) if name else None


def plan(params: Params, root: Path, renderer: Renderer, support: pd.DataFrame) -> list[Wanted]:
    """Plan the images of all tasks."""
    ratios = ratios_of(params)
    if METHODS[params.method].searches and not renderer.generator.fast:
        warn_of_equal_levels(ratios, renderer.steps)
    return plan_tasks(
        params.method,
        support,
        read_table(root / "data/sources/sources.csv", SOURCES),
        ratios=ratios,
        per_class=partial(images_per_class, params),
        every_source=params.sources.strategy == "all",
        wording_of=wording_per_task(params, root, renderer, support),
        seed=params.seed,
    )


def ratios_of(params: Params) -> tuple[float, ...]:
    """Return the noise ratios that the method renders."""
    noise = params.noise
    return noise_ratios(params.method, r=noise.r, count=noise.M, low=noise.low, high=noise.high)


def wording_per_task(
    params: Params, root: Path, renderer: Renderer, support: pd.DataFrame
) -> Callable[[int], WordingOf]:
    """Return a function that maps a task to its `WordingOf`.

    For `da-fusion`, first learn a token for every task and class. Raise GenieError if the method
    needs captions and a support image has none.
    """
    method, prompt = METHODS[params.method], params.prompt
    names = read_names(prompt.names)
    learned = learn(params, root, renderer, support, names) if method.learns else {}
    captions = None
    if method.captions:
        captions = read_captions(prompt.captions)
        require_captions(captions, sorted(support["image_id"].unique()), path=prompt.captions)
    contexts = read_contexts(prompt.contexts) if method.contexts else None
    return lambda task: partial(
        wording_in_turn,
        templates=method.templates or prompt.templates,
        superclass=prompt.superclass,
        negative=prompt.negative,
        names=learned.get(task, names),
        captions=captions,
        contexts=contexts,
    )


def learn(
    params: Params,
    root: Path,
    renderer: Renderer,
    support: pd.DataFrame,
    names: Mapping[str, str],
) -> dict[int, dict[str, str]]:
    """Learn a token for every class of every task and copy the files into data/augmented/."""
    generator = renderer.generator
    if isinstance(generator, Described):  # tokens are learned here, whoever renders
        given = params.generator
        generator = load_generator(given.model, compile=given.compile, dtype=_dtype(params))
    tokens, files = learned_names(
        support,
        names,
        renderer.sources,
        generator=generator,
        settings=InversionSettings(
            params.inversion.steps, template=params.prompt.templates[0], seed=params.seed
        ),
        folder=tokens_folder(root),
        watch=lambda pairs: bar(pairs, total=len(pairs), label="learn tokens", unit="class"),
    )
    renderer.add_tokens(files)
    folder = root / "data/augmented"
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return tokens


def search(
    params: Params, wanted: Sequence[Wanted], renderer: Renderer, marks: Landmarks
) -> tuple[list[Trajectory], Cost]:
    """Run the exact search, or the search by previews if it is requested and saves steps."""
    competing = params.noise.r == "ada" and METHODS[params.method].searches
    if competing and params.noise.search == "preview":
        steps = preview_steps(
            ratios_of(params), renderer.steps, between=renderer.generator.fast, least=PREVIEW_STEPS
        )
        if steps < renderer.steps:
            return preview(wanted, renderer, marks, least=params.noise.least, steps=steps)
    return exact(wanted, renderer, marks, least=params.noise.least)


def rule_of(params: Params) -> str:
    """Return the filter rule of the parameters, or else the method's default."""
    return params.filter.rule or METHODS[params.method].rule


def judge_per_task(
    params: Params,
    root: Path,
    support: pd.DataFrame,
    example_of: Callable[[Sequence[str]], Examples],
    baseline: Mapping[int, Classifier],
) -> dict[int, Judge]:
    """Return the filter's judge for each task. CLIP is loaded only if the rule needs it."""
    clip = None
    if rule_of(params) in ASK_CLIP:
        clip = load_clip(params.filter.clip, parameter="filter.clip", cache=features_file(root))
    prompt = prompt_of(params)
    return {
        int(task): Judge(
            classifier=baseline[int(task)],
            support=example_of(rows["image_id"]),
            prompts={label: prompt(label) for label in sorted(rows["label"].unique())},
            clip=clip,
            least_text=params.filter.least_text,
            least_image=params.filter.least_image,
        )
        for task, rows in support.groupby("task")
    }
