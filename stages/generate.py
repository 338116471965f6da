"""Render hard negatives, choose r per image, and write the augmentation set.

In: data/prepared/support/, tasks.csv, data/sources/sources.csv, models/baseline/, the generator
and the backbone. Out: data/augmented/, plots/contact_sheet.png, metrics/cost.json.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from genie.augmentation import (
    Groups,
    RealImages,
    as_examples,
    called_target,
    chosen_requests,
    contact_rows,
    exchange_chosen,
    requested,
    settle,
    trace_tasks,
    unclear,
    write_set,
)
from genie.backbones import embed, load_backbone
from genie.captions import read_captions, require_captions
from genie.classifiers import Classifier, load
from genie.clip import load_clip
from genie.filters import ASK_CLIP, RULES, Judge, draw_until_kept
from genie.inversion import InversionSettings, add_tokens, learn_token
from genie.methods import METHODS, Brief
from genie.noise import denoising_steps, levels
from genie.prompts import Contexts, read_contexts, read_names, wording_in_turn
from genie.records import SOURCE_COLUMNS, TASK_COLUMNS, Request, read_images, read_table
from genie.report import contact_sheet
from genie.store import store_path
from genie.training import load_examples, picker
from stages.common import features_file, stage
from stages.params import Params
from stages.rendering import Rendering, in_all, load_rendering, render_with_cost
from stages.settings import images_per_class, prompt_of, training_settings

log = logging.getLogger(__name__)


@stage
def main(params: Params, root: Path) -> str:
    """Render hard negatives, choose r per image, and write the augmentation set."""
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", columns=TASK_COLUMNS)
    support = tasks[tasks["role"] == "support"]
    baseline = load(root / "models/baseline")
    rendering = load_rendering(params, root, images)
    if not rendering.generator.fast:
        warn_of_equal_levels(params, rendering.steps)
    groups = plan_tasks(params, root, rendering, support)
    backbone = load_backbone(Path(params.classifier.backbone), cache=features_file(root))
    real = RealImages(list(images["image_id"]), load_examples(images, backbone=backbone), backbone)
    judges = judges_of(params, root, support, real, baseline)
    costs: list[dict[str, int | float]] = []

    def trace(wanted: Groups) -> pd.DataFrame:
        table, cost = search(params, wanted, rendering, real, support=support)
        costs.append(cost)
        return table

    def kept(task: int, rows: pd.DataFrame) -> np.ndarray:
        generated = as_examples(rows, picture_of=rendering.picture)
        return RULES[rule_of(params)](generated, judges[task])

    trajectories, rejected = draw_until_kept(
        groups, trace=trace, kept=kept, attempts=params.filter.attempts
    )
    cost = in_all(costs)
    cost |= {"rejected": rejected, "short": warn_of_shortfall(params, groups, trajectories)}
    trajectories = called_target(
        trajectories, baseline, picture_of=rendering.picture, settings=training_settings(params)
    )
    members = write_set(
        trajectories,
        root / "data/augmented",
        provenance={
            "method": params.method,
            "guidance_scale": rendering.guidance_scale,
            "scheduler": rendering.generator.scheduler,
            "generator": rendering.generator.name,
            "fingerprint": rendering.generator.fingerprint,
        },
        png_of=lambda key: store_path(rendering.store, key).read_bytes(),
    )
    cost["images"] = int(members["file_name"].nunique())
    path = root / "metrics/cost.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(cost, indent=1) + "\n")
    rows = contact_rows(trajectories, images, support, picture_of=rendering.picture)
    contact_sheet(rows, root / "plots/contact_sheet.png")
    return (
        f"generate: {cost['images']} images in data/augmented; {cost['rendered']} rendered in "
        f"{cost['seconds']:.0f} s, {cost['found']} taken from the store"
    )


def plan_tasks(
    params: Params, root: Path, rendering: Rendering, support: pd.DataFrame
) -> dict[int, list[tuple[Request, ...]]]:
    """By task: its requests, grouped by the image they compete to become."""
    sources = read_table(root / "data/sources/sources.csv", columns=SOURCE_COLUMNS)
    names = names_by_task(params, root, rendering, support)
    captions = captions_of(params, sorted(support["image_id"].unique()))
    contexts = (
        read_contexts(Path(params.prompt.contexts)) if METHODS[params.method].contexts else None
    )
    return {
        t: plan(
            params,
            rows,
            sources[sources["task"] == t],
            names=names[t],
            captions=captions,
            contexts=contexts,
        )
        for t, rows in support.groupby("task")
    }


def search(
    params: Params,
    groups: Groups,
    rendering: Rendering,
    real: RealImages,
    *,
    support: pd.DataFrame,
) -> tuple[pd.DataFrame, dict[str, int | float]]:
    """Trajectories of all groups with the chosen level, and what rendering them cost.

    With previews the levels are compared at few steps. Where the two largest jumps are too near
    each other to tell, their levels are rendered in full; of the others only the chosen one is.
    """
    full = rendering.steps
    steps = search_steps(params, full, between=rendering.generator.fast)

    def trace(wanted: Groups, at: int) -> pd.DataFrame:
        return trace_tasks(
            wanted,
            support=support,
            real=real,
            key_of=partial(rendering.key, steps=at),
            picture_of=rendering.picture,
        ).assign(steps=at)

    later = full_steps_to_follow(groups, full) if steps < full else 0
    costs = [render_with_cost(requested(groups), rendering, steps=steps, later=later)]
    trajectories = trace(groups, steps)
    if steps < full:
        below = params.noise.unclear
        unsure = unclear(groups, trajectories, below=below)
        sure = chosen_requests(trajectories[~(trajectories["shift_ratio"] < below)])
        wanted = [*requested(unsure), *sure]  # together, for full batches
        costs.append(render_with_cost(wanted, rendering, steps=full, later=None))
        trajectories = settle(trajectories, trace(unsure, full))
        keys = [rendering.key(request, full) for request in sure]
        z = embed([rendering.picture(key) for key in keys], model=real.backbone)
        trajectories = exchange_chosen(trajectories, keys, list(z), steps=full)
    return trajectories, in_all(costs)


def full_steps_to_follow(groups: Groups, full: int) -> int:
    """Guided steps of one level in full per distinct pair, the levels' mean."""
    pairs = {group for own in groups.values() for group in own}
    return sum(sum(denoising_steps(q.r, full) for q in group) // len(group) for group in pairs)


def judges_of(
    params: Params,
    root: Path,
    support: pd.DataFrame,
    real: RealImages,
    baseline: Mapping[int, Classifier],
) -> dict[int, Judge]:
    """What the filter may ask about each task; CLIP is loaded only for a rule that asks it."""
    clip = None
    if rule_of(params) in ASK_CLIP:
        folder = Path(params.filter.clip)
        clip = load_clip(folder, parameter="filter.clip", cache=features_file(root))
    settings = training_settings(params)
    prompt = prompt_of(params)
    support_of = picker(real.examples, real.ids)
    return {
        int(task): Judge(
            classifier=baseline[int(task)],
            settings=settings,
            support=support_of(rows["image_id"]),
            prompts={label: prompt(label) for label in sorted(rows["label"].unique())},
            clip=clip,
            least_text=params.filter.least_text,
            least_image=params.filter.least_image,
        )
        for task, rows in support.groupby("task")
    }


def rule_of(params: Params) -> str:
    """The filter's rule: the one asked for, else the method's own."""
    return params.filter.rule or METHODS[params.method].rule


def names_by_task(
    params: Params, root: Path, rendering: Rendering, support: pd.DataFrame
) -> dict[int, dict[str, str]]:
    """What prompts call each class, by task: its name, or a token learned from its images there.

    Learned tokens are added to the generator, and their files lie in data/augmented/tokens.
    """
    names = read_names(Path(params.prompt.names))
    tasks = sorted(support["task"].unique())
    if not METHODS[params.method].learns:
        return dict.fromkeys(tasks, names)
    settings = InversionSettings(
        **params.inversion.model_dump(), template=params.prompt.templates[0], seed=params.seed
    )
    learned: dict[int, dict[str, str]] = {task: {} for task in tasks}
    folder = root / "data/augmented/tokens"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(support.groupby(["task", "label"])["image_id"])
    for (task, label), own in tqdm(pairs, desc="learn tokens", unit="class", dynamic_ncols=True):
        word = names.get(label, label)
        token, path = learn_token(
            {i: rendering.sources[i] for i in own},
            word,
            generator=rendering.generator,
            settings=settings,
            folder=rendering.store.parent / "tokens",
        )
        add_tokens(rendering.generator, {token: path})
        shutil.copyfile(path, folder / path.name)
        learned[task][label] = token
    return learned


def captions_of(params: Params, images: Sequence[str]) -> dict[str, str] | None:
    """Captions of the support images where the method takes them as prompts, else None."""
    if not METHODS[params.method].captions:
        return None
    path = Path(params.prompt.captions)
    captions = read_captions(path)
    require_captions(captions, images, path=path)
    return captions


def search_steps(params: Params, full: int, *, between: bool) -> int:
    """Denoising steps of the images that levels are compared by; all `full` unless previewed.

    As many as `noise.preview_steps`; unless the generator can start `between` two steps, the next
    multiple that tells all levels apart.
    """
    noise = params.noise
    if noise.r != "ada" or noise.search == "exact" or not METHODS[params.method].searches:
        return full
    if between:
        return min(noise.preview_steps, full)
    ratios = levels(noise.low, noise.high, noise.M)
    for steps in range(noise.preview_steps, full, noise.preview_steps):
        if len({denoising_steps(r, steps) for r in ratios}) == len(ratios):
            return steps
    return full


def plan(
    params: Params,
    support: pd.DataFrame,
    sources: pd.DataFrame,
    *,
    names: Mapping[str, str],
    captions: Mapping[str, str] | None,
    contexts: Contexts | None,
) -> list[tuple[Request, ...]]:
    """One task's requests, grouped by the image they compete to become."""
    return METHODS[params.method].plan(
        Brief(
            support=support,
            sources=sources,
            per_class=images_per_class(params, list(support["label"])),
            levels=ratios_of(params),
            wording=partial(
                wording_in_turn,
                templates=params.prompt.templates,
                superclass=params.prompt.superclass,
                negative=params.prompt.negative,
                names=names,
                captions=captions,
                contexts=contexts,
            ),
            seed=params.seed,
            task=int(support["task"].iloc[0]),
        )
    )


def ratios_of(params: Params) -> tuple[float, ...]:
    """The noise ratios that the method renders."""
    noise, own = params.noise, METHODS[params.method].ratio
    if noise.r != "ada":
        return (noise.r,)
    return levels(noise.low, noise.high, noise.M) if own is None else (own,)


def warn_of_equal_levels(params: Params, steps: int) -> None:
    """A warning where so few steps cannot tell the levels apart, as models distilled for speed.

    Only for generators that start at one of their steps; the fast path starts at r itself.
    """
    ratios = ratios_of(params)
    different = len({denoising_steps(r, steps) for r in ratios})
    if different < len(ratios):
        log.warning(
            "the %d levels from noise.low to noise.high are only %d different numbers of steps of "
            "generator.steps=%d, so some render the same image; fewer levels (noise.M) do as well, "
            "or take more steps",
            len(ratios), different, steps,
        )  # fmt: skip


def warn_of_shortfall(params: Params, groups: Groups, trajectories: pd.DataFrame) -> int:
    """How many wanted images no attempt gave; a warning says so and what to change."""
    wanted = sum(map(len, groups.values()))
    short = wanted - int(trajectories["chosen"].sum())
    if short:
        log.warning(
            "%d of %d images were rejected in all %d attempts and are filled up by copies of real "
            "images; raise filter.attempts, or loosen filter.rule (%s; cosine has its bounds in "
            "filter.least_text and filter.least_image)",
            short, wanted, params.filter.attempts, rule_of(params),
        )  # fmt: skip
    return short


if __name__ == "__main__":
    main()
