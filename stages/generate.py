"""Render hard negatives, choose r per image, and write the augmentation set.

In: data/prepared/support/, tasks.csv, data/sources/sources.csv, models/baseline/, the generator
and the backbone. Out: data/augmented/, plots/contact_sheet.png, metrics/cost.json.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from PIL import Image
from tqdm import tqdm

from genie.augmentation import (
    Groups,
    called_target,
    chosen_requests,
    contact_rows,
    exchange_chosen,
    requested,
    trace_tasks,
    write_set,
)
from genie.backbones import embed, load_backbone
from genie.captions import read_captions, require_captions
from genie.classifiers import load
from genie.errors import GenieError
from genie.generator import Generator, load_generator, render, request_key
from genie.inversion import InversionSettings, add_tokens, learn_token
from genie.methods import METHODS
from genie.noise import denoising_steps, levels
from genie.prompts import prompt_in_turn, read_names
from genie.records import (
    SOURCE_COLUMNS,
    TASK_COLUMNS,
    Request,
    decode_png,
    read_images,
    read_table,
)
from genie.report import contact_sheet
from genie.store import ensure, store_path
from genie.training import load_examples
from stages.common import features_file, stage, store_folder
from stages.params import Params
from stages.settings import images_per_class, training_settings


@dataclass(frozen=True)
class Rendering:
    """What an image is rendered with, apart from the request and the number of steps."""

    generator: Generator
    guidance_scale: float
    batch_size: int | None
    sources: Mapping[str, bytes]
    store: Path

    def key(self, request: Request, steps: int) -> str:
        """The request's key at this number of steps."""
        return request_key(request, self.generator, steps=steps, guidance_scale=self.guidance_scale)

    def picture(self, key: str) -> Image.Image:
        """An image that is in the store."""
        return decode_png(store_path(self.store, key).read_bytes())


@stage
def main(params: Params, root: Path) -> str:
    """Render hard negatives, choose r per image, and write the augmentation set."""
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", columns=TASK_COLUMNS)
    support = tasks[tasks["role"] == "support"]
    rendering = load_rendering(params, root, images)
    groups = plan_tasks(params, root, rendering, support)
    trajectories, cost = search(params, root, groups, rendering, images=images, support=support)
    trajectories = called_target(
        trajectories,
        load(root / "models/baseline"),
        picture_of=rendering.picture,
        settings=training_settings(params),
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


def load_rendering(params: Params, root: Path, images: pd.DataFrame) -> Rendering:
    """The generator of the parameters with the support images as sources."""
    generator = load_generator(Path(params.generator.model))
    guidance = params.generator.guidance_scale
    return Rendering(
        generator,
        guidance_scale=generator.guidance_scale if guidance is None else guidance,
        batch_size=params.generator.batch_size,
        sources=dict(zip(images["image_id"], images["png"], strict=True)),
        store=store_folder(root),
    )


def plan_tasks(
    params: Params, root: Path, rendering: Rendering, support: pd.DataFrame
) -> dict[int, list[tuple[Request, ...]]]:
    """By task: its requests, grouped by the image they compete to become."""
    sources = read_table(root / "data/sources/sources.csv", columns=SOURCE_COLUMNS)
    names = names_by_task(params, root, rendering, support)
    captions = captions_of(params, sorted(support["image_id"].unique()))
    return {
        t: plan(params, rows, sources[sources["task"] == t], names=names[t], captions=captions)
        for t, rows in support.groupby("task")
    }


def search(
    params: Params,
    root: Path,
    groups: Groups,
    rendering: Rendering,
    *,
    images: pd.DataFrame,
    support: pd.DataFrame,
) -> tuple[pd.DataFrame, dict[str, int | float]]:
    """Trajectories of all tasks with the chosen level, and what rendering them cost.

    With previews the levels are compared at few steps, and only the chosen ones are rendered in
    full.
    """
    steps, full = search_steps(params), params.generator.steps
    cost = render_with_cost(requested(groups), rendering, steps=steps)
    backbone = load_backbone(Path(params.classifier.backbone), cache=features_file(root))
    trajectories = trace_tasks(
        groups,
        support=support,
        pool=load_examples(images, backbone=backbone),
        ids=list(images["image_id"]),
        key_of=partial(rendering.key, steps=steps),
        picture_of=rendering.picture,
        backbone=backbone,
    ).assign(steps=steps)
    if steps == full:
        return trajectories, cost
    final = chosen_requests(trajectories)
    more = render_with_cost(final, rendering, steps=full)
    keys = [rendering.key(request, full) for request in final]
    z = embed([rendering.picture(key) for key in keys], model=backbone)
    trajectories = exchange_chosen(trajectories, keys, list(z), steps=full)
    return trajectories, {name: cost[name] + more[name] for name in cost}


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


def search_steps(params: Params) -> int:
    """Denoising steps of the images that levels are compared by; all of them unless previewed.

    GenieError if the previews of two levels would be one and the same image.
    """
    noise = params.noise
    if noise.r != "ada" or noise.search == "exact" or not METHODS[params.method].searches:
        return params.generator.steps
    ratios = levels(noise.low, noise.high, noise.M)
    kept = [denoising_steps(r, noise.preview_steps) for r in ratios]
    if len(set(kept)) < len(kept):
        raise GenieError(
            f"noise.preview_steps must tell all levels apart, got {noise.preview_steps}, which "
            f"takes {kept} steps for r = {list(ratios)}; raise it or set noise.search to exact"
        )
    return min(noise.preview_steps, params.generator.steps)


def plan(
    params: Params,
    support: pd.DataFrame,
    sources: pd.DataFrame,
    *,
    names: Mapping[str, str],
    captions: Mapping[str, str] | None,
) -> list[tuple[Request, ...]]:
    """One task's requests, grouped by the image they compete to become."""
    noise = params.noise
    return METHODS[params.method].plan(
        support,
        sources,
        per_class=images_per_class(params, list(support["label"])),
        levels=levels(noise.low, noise.high, noise.M) if noise.r == "ada" else (noise.r,),
        prompt=partial(
            prompt_in_turn,
            templates=params.prompt.templates,
            superclass=params.prompt.superclass,
            names=names,
            captions=captions,
        ),
        negative_prompt=params.prompt.negative,
        seed=params.seed,
        task=int(support["task"].iloc[0]),
    )


def render_with_cost(
    requests: Sequence[Request], rendering: Rendering, *, steps: int
) -> dict[str, int | float]:
    """Render what the store lacks under a progress bar; counts of images, guided steps, seconds."""
    rendered: list[int] = []

    def counted(missing: Sequence[Request]) -> Iterator[tuple[Request, Image.Image]]:
        guided = sum(denoising_steps(request.r, steps) for request in missing)
        tqdm.write(f"generate: {len(missing)} images to render in {guided:,} guided steps")
        drawn = render(
            missing,
            rendering.generator,
            sources=rendering.sources,
            steps=steps,
            guidance_scale=rendering.guidance_scale,
            batch_size=rendering.batch_size,
        )
        for request, image in tqdm(
            drawn, total=len(missing), desc="generate", unit="image", dynamic_ncols=True
        ):
            rendered.append(denoising_steps(request.r, steps))
            yield request, image

    start = time.perf_counter()
    keys = {request: rendering.key(request, steps) for request in requests}
    counts = ensure(requests, root=rendering.store, key_of=keys.__getitem__, render=counted)
    needed = {keys[request]: denoising_steps(request.r, steps) for request in requests}
    return {
        **counts,
        "guided_steps_needed": sum(needed.values()),
        "guided_steps_rendered": sum(rendered),
        "seconds": round(time.perf_counter() - start, 2),
    }


if __name__ == "__main__":
    main()
