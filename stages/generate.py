"""Render hard negatives, choose r per image, and write the augmentation set.

In: data/prepared/support/, tasks.csv, data/sources/sources.csv, models/baseline/, the generator
and the backbone. Out: data/augmented/, plots/contact_sheet.png, metrics/cost.json.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from PIL import Image
from tqdm import tqdm

from genie.augmentation import (
    Groups,
    called_target,
    contact_rows,
    requested,
    trace_tasks,
    write_set,
)
from genie.backbones import load_backbone
from genie.classifiers import load
from genie.generator import load_generator, render, request_key
from genie.methods import METHODS
from genie.noise import denoising_steps, levels
from genie.prompts import prompt_for
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
from stages.common import stage, store_folder
from stages.params import Params
from stages.settings import images_per_class, training_settings


@stage
def main(params: Params, root: Path) -> str:
    """Render hard negatives, choose r per image, and write the augmentation set."""
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", columns=TASK_COLUMNS)
    support = tasks[tasks["role"] == "support"]
    sources = read_table(root / "data/sources/sources.csv", columns=SOURCE_COLUMNS)
    groups = {
        t: plan(params, rows, sources[sources["task"] == t]) for t, rows in support.groupby("task")
    }
    generator = load_generator(Path(params.generator.model))
    guidance = params.generator.guidance_scale
    guidance = generator.guidance_scale if guidance is None else guidance
    steps = params.generator.steps
    key_of = partial(request_key, generator=generator, steps=steps, guidance_scale=guidance)
    draw = partial(
        render,
        generator=generator,
        sources=dict(zip(images["image_id"], images["png"], strict=True)),
        steps=steps,
        guidance_scale=guidance,
        batch_size=params.generator.batch_size,
    )
    store = store_folder(root)
    cost = render_with_cost(requested(groups), store=store, key_of=key_of, draw=draw, steps=steps)
    trajectories = trace(params, root, groups, images=images, support=support, key_of=key_of)
    members = write_set(
        trajectories,
        root / "data/augmented",
        provenance={
            "method": params.method,
            "steps": steps,
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


def trace(
    params: Params,
    root: Path,
    groups: Groups,
    *,
    images: pd.DataFrame,
    support: pd.DataFrame,
    key_of: Callable[[Request], str],
) -> pd.DataFrame:
    """Trajectories of all tasks with the chosen level and the baseline's view of each image."""
    picture = partial(stored_image, store_folder(root))
    backbone = load_backbone(Path(params.classifier.backbone))
    trajectories = trace_tasks(
        groups,
        support=support,
        pool=load_examples(images, backbone=backbone),
        ids=list(images["image_id"]),
        key_of=key_of,
        picture_of=picture,
        backbone=backbone,
    )
    return called_target(
        trajectories,
        load(root / "models/baseline"),
        picture_of=picture,
        settings=training_settings(params),
    )


def stored_image(store: Path, key: str) -> Image.Image:
    """The image of a key that `ensure` has put into the store."""
    return decode_png(store_path(store, key).read_bytes())


def plan(params: Params, support: pd.DataFrame, sources: pd.DataFrame) -> list[tuple[Request, ...]]:
    """One task's requests, grouped by the image they compete to become."""
    noise = params.noise
    return METHODS[params.method].plan(
        support,
        sources,
        per_class=images_per_class(params, list(support["label"])),
        levels=levels(noise.low, noise.high, noise.M) if noise.r == "ada" else (noise.r,),
        prompt=partial(
            prompt_for, template=params.prompt.template, superclass=params.prompt.superclass
        ),
        negative_prompt=params.prompt.negative,
        seed=params.seed,
        task=int(support["task"].iloc[0]),
    )


def render_with_cost(
    requests: Sequence[Request],
    *,
    store: Path,
    key_of: Callable[[Request], str],
    draw: Callable[[Sequence[Request]], Iterator[tuple[Request, Image.Image]]],
    steps: int,
) -> dict[str, int | float]:
    """Render what the store lacks under a progress bar; counts of images, guided steps, seconds."""
    rendered: list[int] = []

    def counted(missing: Sequence[Request]) -> Iterator[tuple[Request, Image.Image]]:
        guided = sum(denoising_steps(request.r, steps) for request in missing)
        tqdm.write(f"generate: {len(missing)} images to render in {guided:,} guided steps")
        for request, image in tqdm(
            draw(missing), total=len(missing), desc="generate", unit="image", dynamic_ncols=True
        ):
            rendered.append(denoising_steps(request.r, steps))
            yield request, image

    start = time.perf_counter()
    counts = ensure(requests, root=store, key_of=key_of, render=counted)
    needed = {key_of(request): denoising_steps(request.r, steps) for request in requests}
    return {
        **counts,
        "guided_steps_needed": sum(needed.values()),
        "guided_steps_rendered": sum(rendered),
        "seconds": round(time.perf_counter() - start, 2),
    }


if __name__ == "__main__":
    main()
