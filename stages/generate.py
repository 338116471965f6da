"""Render hard negatives, choose r per image, and write the augmentation set.

In: data/prepared/support/, tasks.csv, data/sources/sources.csv, models/baseline/, the generator
and the backbone. Out: data/augmented/, plots/contact_sheet.png, metrics/cost.json.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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


@stage
def main(params: Params, root: Path) -> str:
    """Render hard negatives, choose r per image, and write the augmentation set."""
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", columns=TASK_COLUMNS)
    support = tasks[tasks["role"] == "support"]
    sources = read_table(root / "data/sources/sources.csv", columns=SOURCE_COLUMNS)
    generator = load_generator(Path(params.generator.model))
    names = names_by_task(params, root, generator, images=images, support=support)
    captions = captions_of(params, sorted(support["image_id"].unique()))
    groups = {
        t: plan(params, rows, sources[sources["task"] == t], names=names[t], captions=captions)
        for t, rows in support.groupby("task")
    }
    guidance = params.generator.guidance_scale
    guidance = generator.guidance_scale if guidance is None else guidance
    key_of = partial(request_key, generator=generator, guidance_scale=guidance)
    draw = partial(
        render,
        generator=generator,
        sources=dict(zip(images["image_id"], images["png"], strict=True)),
        guidance_scale=guidance,
        batch_size=params.generator.batch_size,
    )
    store = store_folder(root)
    steps = search_steps(params)
    cost = render_with_cost(requested(groups), steps=steps, store=store, key_of=key_of, draw=draw)
    trajectories = trace(
        params, root, groups, images=images, support=support, key_of=partial(key_of, steps=steps)
    )
    if steps != params.generator.steps:
        steps = params.generator.steps
        final = chosen_requests(trajectories)
        more = render_with_cost(final, steps=steps, store=store, key_of=key_of, draw=draw)
        cost = {name: cost[name] + more[name] for name in cost}
        keys = [key_of(request, steps=steps) for request in final]
        trajectories = exchange(params, root, trajectories, keys, steps=steps)
    trajectories = called_target(
        trajectories,
        load(root / "models/baseline"),
        picture_of=partial(stored_image, store),
        settings=training_settings(params),
    )
    members = write_set(
        trajectories,
        root / "data/augmented",
        provenance={
            "method": params.method,
            "guidance_scale": guidance,
            "scheduler": generator.scheduler,
            "generator": generator.name,
            "fingerprint": generator.fingerprint,
        },
        png_of=lambda key: store_path(store, key).read_bytes(),
    )
    cost["images"] = int(members["file_name"].nunique())
    path = root / "metrics/cost.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(cost, indent=1) + "\n")
    rows = contact_rows(trajectories, images, support, picture_of=partial(stored_image, store))
    contact_sheet(rows, root / "plots/contact_sheet.png")
    return (
        f"generate: {cost['images']} images in data/augmented; {cost['rendered']} rendered in "
        f"{cost['seconds']:.0f} s, {cost['found']} taken from the store"
    )


def names_by_task(
    params: Params, root: Path, generator: Generator, *, images: pd.DataFrame, support: pd.DataFrame
) -> dict[int, dict[str, str]]:
    """What prompts call each class, by task: its name, or a token learned from its images there.

    Learned tokens are added to the generator, and their files lie in data/augmented/tokens.
    """
    names = read_names(Path(params.prompt.names))
    tasks = sorted(support["task"].unique())
    if not METHODS[params.method].learns:
        return dict.fromkeys(tasks, names)
    png = dict(zip(images["image_id"], images["png"], strict=True))
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
            {i: png[i] for i in own},
            word,
            generator=generator,
            settings=settings,
            folder=store_folder(root).parent / "tokens",
        )
        add_tokens(generator, {token: path})
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


def trace(
    params: Params,
    root: Path,
    groups: Groups,
    *,
    images: pd.DataFrame,
    support: pd.DataFrame,
    key_of: Callable[[Request], str],
) -> pd.DataFrame:
    """Trajectories of all tasks with the chosen level."""
    backbone = load_backbone(Path(params.classifier.backbone), cache=features_file(root))
    trajectories = trace_tasks(
        groups,
        support=support,
        pool=load_examples(images, backbone=backbone),
        ids=list(images["image_id"]),
        key_of=key_of,
        picture_of=partial(stored_image, store_folder(root)),
        backbone=backbone,
    )
    return trajectories.assign(steps=search_steps(params))


def exchange(
    params: Params, root: Path, trajectories: pd.DataFrame, keys: Sequence[str], *, steps: int
) -> pd.DataFrame:
    """The trajectories with the chosen previews exchanged for the full images of `keys`."""
    store = store_folder(root)
    backbone = load_backbone(Path(params.classifier.backbone), cache=features_file(root))
    distinct = sorted(set(keys))
    z = embed([stored_image(store, key) for key in distinct], model=backbone)
    of_key = dict(zip(distinct, z, strict=True))
    return exchange_chosen(trajectories, keys, [of_key[key] for key in keys], steps=steps)


def stored_image(store: Path, key: str) -> Image.Image:
    """The image of a key that `ensure` has put into the store."""
    return decode_png(store_path(store, key).read_bytes())


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
    requests: Sequence[Request],
    *,
    steps: int,
    store: Path,
    key_of: Callable[..., str],
    draw: Callable[..., Iterator[tuple[Request, Image.Image]]],
) -> dict[str, int | float]:
    """Render what the store lacks under a progress bar; counts of images, guided steps, seconds."""
    rendered: list[int] = []

    def counted(missing: Sequence[Request]) -> Iterator[tuple[Request, Image.Image]]:
        guided = sum(denoising_steps(request.r, steps) for request in missing)
        tqdm.write(f"generate: {len(missing)} images to render in {guided:,} guided steps")
        for request, image in tqdm(
            draw(missing, steps=steps),
            total=len(missing),
            desc="generate",
            unit="image",
            dynamic_ncols=True,
        ):
            rendered.append(denoising_steps(request.r, steps))
            yield request, image

    start = time.perf_counter()
    keys = {request: key_of(request, steps=steps) for request in requests}
    counts = ensure(requests, root=store, key_of=keys.__getitem__, render=counted)
    needed = {keys[request]: denoising_steps(request.r, steps) for request in requests}
    return {
        **counts,
        "guided_steps_needed": sum(needed.values()),
        "guided_steps_rendered": sum(rendered),
        "seconds": round(time.perf_counter() - start, 2),
    }


if __name__ == "__main__":
    main()
