"""Evaluation of the bundled models on held-out images."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from genie.classify.backbone import (
    ImageModel,
    class_names,
    classify,
    embed,
    load_backbone,
    load_oracle,
)
from genie.classify.clip import load_clip, zero_shot
from genie.core.tables import read_images
from genie.data.images import decode_image
from genie.data.prompts import prompt_for
from genie.plan.requests import Request
from genie.progress import bar
from genie.render.engine import LocalEngine
from genie.render.loop import Renderer
from genie.render.model import Generator, load_generator
from genie.render.store import MemoryStore
from zoo.distances import (
    frechet,
    frechet_with_error,
    inception_features,
    kernel_with_error,
    load_inception,
)
from zoo.recipes import RECIPES, Recipe

STEPS = 50
SIDE = 32
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SHOTS = 5
TRIALS = 20


def text_requests(count: int, classes: Sequence[str]) -> list[Request]:
    """Return `count` text-to-image requests that go through the classes in turn."""
    targets = [name for name, _ in zip(cycle(classes), range(count), strict=False)]
    return [_request(None, None, name, r=1.0, replicate=i) for i, name in enumerate(targets)]


def edit_requests(support: pd.DataFrame, count: int, *, r: float) -> list[Request]:
    """Return `count` requests to edit random images into other classes, the same for all r."""
    draw, classes = np.random.default_rng(0), list(support.label.unique())
    rows = support.iloc[draw.choice(len(support), count, replace=False)]
    return [
        _request(row.image_id, row.label, draw.choice([c for c in classes if c != row.label]), r=r)
        for row in rows.itertuples()
    ]


def _request(
    source: str | None, source_label: str | None, target: str, *, r: float, replicate: int = 0
) -> Request:
    return Request(
        source_id=source,
        source_label=source_label,
        target_label=str(target),
        prompt=prompt_for(str(target)),
        negative_prompt="",
        r=r,
        replicate=replicate,
        seed=0,
        support_id="",
    )


def pictures(
    requests: Sequence[Request], generator: Generator, *, sources: dict[str, bytes], name: str
) -> list[Image.Image]:
    """Render images and return them in the order of `requests`."""
    click.echo(f"{name}: {len(requests)} images")
    renderer = Renderer(LocalEngine(generator), MemoryStore(), sources, bar)
    renderer.ensure(requests, steps=STEPS, extra_steps=None)
    return [renderer.store.image(renderer.key(request, STEPS)) for request in requests]


def consistency(images: Sequence[Image.Image], labels: Sequence[str], oracle: ImageModel) -> float:
    """Return the share of `images`, in [0, 1], for which the oracle predicts the label."""
    names = np.array(class_names(oracle))
    predicted = names[classify(images, model=oracle).argmax(1)]
    return float(np.mean(predicted == np.array(labels)))


@torch.inference_mode()
def reconstruct(images: Sequence[Image.Image], generator: Generator) -> list[Image.Image]:
    """Encode and decode `images` with the autoencoder."""
    vae = generator.pipeline.vae
    decoded = []
    for start in tqdm(range(0, len(images), 100), desc="reconstructing"):
        batch = torch.from_numpy(_stack(images[start : start + 100])).permute(0, 3, 1, 2)
        latent = vae.encode((batch / 127.5 - 1).to(vae.device, vae.dtype)).latent_dist.mode()
        output = vae.decode(latent).sample.float().cpu()
        decoded.append(((output + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return [Image.fromarray(i) for i in torch.cat(decoded).permute(0, 2, 3, 1).numpy()]


def sharpness(images: Sequence[Image.Image]) -> float:
    """Return the mean absolute difference of adjacent pixels, in grey levels from 0 to 255."""
    stack = _stack(images)
    return float(np.abs(np.diff(stack, axis=1)).mean() + np.abs(np.diff(stack, axis=2)).mean()) / 2


def few_shot_accuracy(support: pd.DataFrame, backbone: ImageModel) -> tuple[float, float]:
    """Return the mean and standard error of the 5-shot accuracy on held-out support images."""
    vectors = embed([decode_image(png) for png in support.png], model=backbone)
    labels = support.label.to_numpy()
    scores = []
    for trial in range(TRIALS):
        order = np.random.default_rng(trial).permutation(len(labels))
        train = np.concatenate([order[labels[order] == c][:SHOTS] for c in np.unique(labels)])
        held = np.setdiff1d(order, train)
        head = LogisticRegression(max_iter=1000).fit(vectors[train], labels[train])
        scores.append(head.score(vectors[held], labels[held]))
    return float(np.mean(scores)), float(np.std(scores, ddof=1) / TRIALS**0.5)


def measure(recipe: Recipe, *, texts: int, edits: int, inception: bool) -> tuple[dict, dict]:
    """Compute all numbers for the model cards, and the images for the figure by row title."""
    zoo, data = recipe.out, recipe.data
    generator = load_generator(zoo / "generator")
    oracle, backbone = load_oracle(zoo / "oracle"), load_backbone(zoo / "backbone")
    support, query = read_images(data / "train"), read_images(data / "test")
    real = [decode_image(png) for png in query.png]
    decoded = reconstruct(real, generator)
    few_shot, error = few_shot_accuracy(support, backbone)
    requests = text_requests(texts, recipe.classes)
    drawn = pictures(requests, generator, sources={}, name="text to image")
    features = {
        name: embed(images, model=_pooling(oracle))
        for name, images in (("real", real), ("decoded", decoded), ("drawn", drawn))
    }
    numbers = {
        "oracle_accuracy": consistency(real, list(query.label), oracle),
        "oracle_accuracy_on_reconstructions": consistency(decoded, list(query.label), oracle),
        "backbone_5_shot_accuracy": few_shot,
        "backbone_5_shot_standard_error": error,
        "vae_mean_absolute_error": _error(real, decoded, power=1) / 255,
        "vae_psnr_db": float(10 * np.log10(255**2 / _error(real, decoded, power=2))),
        "sharpness_real": sharpness(real),
        "sharpness_reconstructed": sharpness(decoded),
        "sharpness_text_to_image": sharpness(drawn),
        "frechet_reconstructed": frechet(features["real"], features["decoded"]),
        "frechet_text_to_image": frechet(features["real"], features["drawn"]),
        "guidance_scale": generator.info.guidance_scale,
        "steps": STEPS,
        "text_to_image_images": texts,
        "text_to_image_consistency": consistency(
            drawn, [request.target_label for request in requests], oracle
        ),
        "edit_images_per_ratio": edits,
    }
    if inception:
        numbers |= measure_distances(support, real, decoded, drawn)
    rows = {
        "real": _one_per_class(real, list(query.label), recipe.classes),
        "text to image": drawn[:10],
    }
    rows["reconstructed"] = _one_per_class(decoded, list(query.label), recipe.classes)
    sources = dict(zip(support.image_id, support.png, strict=True))
    for r in RATIOS:
        requests = edit_requests(support, edits, r=r)
        edited = pictures(requests, generator, sources=sources, name=f"r = {r}")
        labels = [request.target_label for request in requests]
        numbers[f"edit_consistency_{r}"] = consistency(edited, labels, oracle)
        rows[f"r = {r}"] = edited[:10]
        origin = [decode_image(sources[str(q.source_id)]) for q in requests[:10]]
        captions = [f"{q.source_label}\nto {q.target_label}" for q in requests[:10]]
    return numbers, {"images": rows, "sources": origin, "captions": captions, "drawn": drawn}


def measure_distances(
    support: pd.DataFrame,
    real: Sequence[Image.Image],
    decoded: Sequence[Image.Image],
    drawn: Sequence[Image.Image],
) -> dict[str, float]:
    """Compute Fréchet and kernel distances to real query images, with their errors.

    All samples have the same size. The distance between real support images and real query images
    is the lowest that can be expected at this sample size.
    """
    network, count = load_inception(), len(drawn)
    rows = np.random.default_rng(0)
    reference = [real[i] for i in rows.permutation(len(real))[:count]]
    others = [decode_image(png) for png in support.png.iloc[rows.permutation(len(support))[:count]]]
    near = [decoded[i] for i in rows.permutation(len(decoded))[:count]]
    target = inception_features(reference, network, name="query images")
    numbers = {}
    samples = {"support": others, "reconstructed": near, "text_to_image": drawn}
    for name, images in samples.items():
        features = inception_features(images, network, name=name)
        distance, error = frechet_with_error(target, features)
        numbers |= {f"fid_{name}": distance, f"fid_{name}_standard_error": error}
        distance, error = kernel_with_error(target, features)
        numbers |= {f"kid_{name}": distance, f"kid_{name}_deviation": error}
    return numbers


def measure_clip(recipe: Recipe) -> dict[str, float]:
    """Compute CLIP's zero-shot accuracy on real query images."""
    query = read_images(recipe.data / "test")
    clip = load_clip(recipe.out / "clip", argument=f"{recipe.out}/clip")
    prompts = {name: prompt_for(name) for name in recipe.classes}
    predicted = zero_shot([decode_image(png) for png in query.png], prompts, clip)
    right = np.array(predicted) == query.label.to_numpy()
    return {"clip_zero_shot_accuracy": float(np.mean(right))}


def _pooling(oracle: ImageModel) -> ImageModel:
    """Return the oracle without its classification layer, as an embedder."""
    return replace(oracle, model=oracle.model.base_model)


def _stack(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.float32) for image in images])


def _error(first: Sequence[Image.Image], second: Sequence[Image.Image], *, power: int) -> float:
    return float((np.abs(_stack(first) - _stack(second)) ** power).mean())


def _one_per_class(
    images: Sequence[Image.Image], labels: list[str], classes: Sequence[str]
) -> list[Image.Image]:
    return [images[labels.index(name)] for name in classes]


def sheet(images: Sequence[Image.Image], *, columns: int = 10, scale: int = 2) -> Image.Image:
    """Arrange images of equal size in an enlarged grid with `columns` columns."""
    stack = np.stack([np.asarray(image) for image in images])
    rows = [np.concatenate(list(row), 1) for row in np.split(stack, len(stack) // columns)]
    picture = Image.fromarray(np.concatenate(rows))
    size = (picture.width * scale, picture.height * scale)
    return picture.resize(size, Image.Resampling.NEAREST)


def draw_figure(numbers: dict, shown: dict, path: Path) -> None:
    """Draw the rows of images and a plot of label consistency against r."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6), width_ratios=(1.6, 1))
    rows = [*shown["images"].items()]
    rows.insert(3, ("source", shown["sources"]))
    sheet = np.concatenate([np.concatenate([np.asarray(i) for i in row], 1) for _, row in rows])
    left.imshow(sheet)
    left.set_yticks(np.arange(len(rows)) * SIDE + SIDE // 2, [title for title, _ in rows])
    left.set_xticks(np.arange(10) * SIDE + SIDE // 2, shown["captions"], fontsize=5)
    right.plot(RATIOS, [numbers[f"edit_consistency_{r}"] for r in RATIOS], "o-", label="GeNIe")
    right.axhline(numbers["text_to_image_consistency"], ls="--", c="C1", label="text to image")
    right.axhline(numbers["oracle_accuracy"], ls=":", c="C2", label="real query images")
    right.set(xlabel="noise ratio r", ylabel="share the oracle calls the target", ylim=(0, 1.02))
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


@click.command()
@click.option("--recipe", "name", type=click.Choice(list(RECIPES)), default="fashion")
@click.option("--texts", default=500, show_default=True, help="Text-to-image samples.")
@click.option("--edits", default=200, show_default=True, help="GeNIe samples per noise ratio.")
@click.option("--inception", is_flag=True, help="Also distances in Inception's features.")
@click.option("--clip-only", is_flag=True, help="Measure CLIP and keep the other numbers.")
def main(name: str, texts: int, edits: int, inception: bool, clip_only: bool) -> None:
    """Write quality.json, quality.csv, quality.png and samples.png next to the models."""
    recipe = RECIPES[name]
    if clip_only:
        numbers = json.loads((recipe.out / "quality.json").read_text())
    else:
        numbers, shown = measure(recipe, texts=texts, edits=edits, inception=inception)
        draw_figure(numbers, shown, recipe.out / "quality.png")
        sheet(shown["drawn"][:100]).save(recipe.out / "samples.png")
    numbers |= measure_clip(recipe)
    (recipe.out / "quality.json").write_text(json.dumps(numbers, indent=2) + "\n")
    table = pd.DataFrame(numbers.items(), columns=["measure", "value"])
    table.to_csv(recipe.out / "quality.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
