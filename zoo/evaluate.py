"""Evaluation of the embedded models on images that none of them was trained on."""

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
from scipy.linalg import sqrtm
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
from genie.data.images import decode_image
from genie.data.wording import prompt_for
from genie.generate.model import Generator, load_generator
from genie.generate.render import render
from genie.generate.request import Request
from genie.tables import read_images
from zoo.fashion_mnist import BUNDLED, CLASSES

ZOO = Path("zoo")
STEPS = 50
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SHOTS = 5
TRIALS = 20


def text_requests(count: int) -> list[Request]:
    """Return `count` text-to-image requests that go through the classes in turn."""
    targets = [name for name, _ in zip(cycle(CLASSES), range(count), strict=False)]
    return [_request(None, None, name, r=1.0, replicate=i) for i, name in enumerate(targets)]


def edit_requests(support: pd.DataFrame, count: int, *, r: float) -> list[Request]:
    """Return `count` requests from random support images to other classes, the same for all r."""
    draw = np.random.default_rng(0)
    rows = support.iloc[draw.choice(len(support), count, replace=False)]
    return [
        _request(row.image_id, row.label, draw.choice([c for c in CLASSES if c != row.label]), r=r)
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
    rendered = render(requests, generator, sources=sources, steps=STEPS)
    images = dict(tqdm(rendered, desc=name, total=len(requests)))
    return [images[request] for request in requests]


def consistency(images: Sequence[Image.Image], labels: Sequence[str], oracle: ImageModel) -> float:
    """Return the share of `images`, in [0, 1], for which the oracle predicts the label."""
    names = np.array(class_names(oracle))
    called = names[classify(images, model=oracle).argmax(1)]
    return float(np.mean(called == np.array(labels)))


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
    """Return the mean absolute difference of neighbouring pixels, in grey levels from 0 to 255."""
    stack = _stack(images)
    return float(np.abs(np.diff(stack, axis=1)).mean() + np.abs(np.diff(stack, axis=2)).mean()) / 2


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Fréchet distance of Gaussians fitted to features (n, d) (Heusel et al. 2017)."""
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = sqrtm(a @ b)
    gap = first.mean(0) - second.mean(0)
    return float(gap @ gap + np.trace(a + b - 2 * np.real(root)))


def few_shot_accuracy(support: pd.DataFrame, backbone: ImageModel) -> tuple[float, float]:
    """Return mean and standard error of the 5-shot accuracy on held-out support images."""
    vectors = embed([decode_image(png) for png in support.png], model=backbone)
    labels = support.label.to_numpy()
    scores = []
    for trial in range(TRIALS):
        order = np.random.default_rng(trial).permutation(len(labels))
        train = np.concatenate([order[labels[order] == c][:SHOTS] for c in CLASSES])
        held = np.setdiff1d(order, train)
        head = LogisticRegression(max_iter=1000).fit(vectors[train], labels[train])
        scores.append(head.score(vectors[held], labels[held]))
    return float(np.mean(scores)), float(np.std(scores, ddof=1) / TRIALS**0.5)


def measure(zoo: Path, data: Path, *, texts: int, edits: int) -> tuple[dict, dict]:
    """Compute all numbers of the model cards, and the images of the figure by row title."""
    generator = load_generator(zoo / "generator")
    oracle, backbone = load_oracle(zoo / "oracle"), load_backbone(zoo / "backbone")
    support, query = read_images(data / "train"), read_images(data / "test")
    real = [decode_image(png) for png in query.png]
    decoded = reconstruct(real, generator)
    few_shot, error = few_shot_accuracy(support, backbone)
    asked = text_requests(texts)
    drawn = pictures(asked, generator, sources={}, name="text to image")
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
        "guidance_scale": generator.guidance_scale,
        "steps": STEPS,
        "text_to_image_images": texts,
        "text_to_image_consistency": consistency(
            drawn, [request.target_label for request in asked], oracle
        ),
        "edit_images_per_ratio": edits,
    }
    rows = {"real": _one_per_class(real, list(query.label)), "text to image": drawn[:10]}
    rows["reconstructed"] = _one_per_class(decoded, list(query.label))
    sources = dict(zip(support.image_id, support.png, strict=True))
    for r in RATIOS:
        wanted = edit_requests(support, edits, r=r)
        edited = pictures(wanted, generator, sources=sources, name=f"r = {r}")
        labels = [request.target_label for request in wanted]
        numbers[f"edit_consistency_{r}"] = consistency(edited, labels, oracle)
        rows[f"r = {r}"] = edited[:10]
        origin = [decode_image(sources[str(q.source_id)]) for q in wanted[:10]]
        captions = [f"{q.source_label}\nto {q.target_label}" for q in wanted[:10]]
    return numbers, {"images": rows, "sources": origin, "captions": captions}


def measure_clip(zoo: Path, data: Path) -> dict[str, float]:
    """Compute CLIP's zero-shot accuracy on real query images."""
    query = read_images(data / "test")
    clip = load_clip(zoo / "clip", parameter="zoo/clip")
    prompts = {name: prompt_for(name) for name in CLASSES}
    called = zero_shot([decode_image(png) for png in query.png], prompts, clip)
    return {"clip_zero_shot_accuracy": float(np.mean(np.array(called) == query.label.to_numpy()))}


def _pooling(oracle: ImageModel) -> ImageModel:
    """Return the oracle without its last layer, which then gives embeddings."""
    return replace(oracle, model=oracle.model.base_model)


def _stack(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.float32) for image in images])


def _error(first: Sequence[Image.Image], second: Sequence[Image.Image], *, power: int) -> float:
    return float((np.abs(_stack(first) - _stack(second)) ** power).mean())


def _one_per_class(images: Sequence[Image.Image], labels: list[str]) -> list[Image.Image]:
    return [images[labels.index(name)] for name in CLASSES]


def draw_figure(numbers: dict, shown: dict, path: Path) -> None:
    """Draw the rows of images and a plot of label consistency against r."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6), width_ratios=(1.6, 1))
    rows = [*shown["images"].items()]
    rows.insert(3, ("source", shown["sources"]))
    sheet = np.concatenate([np.concatenate([np.asarray(i) for i in row], 1) for _, row in rows])
    left.imshow(sheet)
    left.set_yticks(np.arange(len(rows)) * 32 + 16, [title for title, _ in rows])
    left.set_xticks(np.arange(10) * 32 + 16, shown["captions"], fontsize=5)
    right.plot(RATIOS, [numbers[f"edit_consistency_{r}"] for r in RATIOS], "o-", label="GeNIe")
    right.axhline(numbers["text_to_image_consistency"], ls="--", c="C1", label="text to image")
    right.axhline(numbers["oracle_accuracy"], ls=":", c="C2", label="real query images")
    right.set(xlabel="noise ratio r", ylabel="share the oracle calls the target", ylim=(0, 1.02))
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


@click.command()
@click.option("--zoo", type=click.Path(path_type=Path), default=ZOO, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=BUNDLED, show_default=True)
@click.option("--texts", default=500, show_default=True, help="Text-to-image samples.")
@click.option("--edits", default=200, show_default=True, help="GeNIe samples per noise ratio.")
@click.option("--clip-only", is_flag=True, help="Measure CLIP and keep the other numbers.")
def main(zoo: Path, data: Path, texts: int, edits: int, clip_only: bool) -> None:
    """Write quality.json, quality.csv and quality.png into --zoo."""
    if clip_only:
        numbers = json.loads((zoo / "quality.json").read_text())
    else:
        numbers, shown = measure(zoo, data, texts=texts, edits=edits)
        draw_figure(numbers, shown, zoo / "quality.png")
    numbers |= measure_clip(zoo, data)
    (zoo / "quality.json").write_text(json.dumps(numbers, indent=2) + "\n")
    table = pd.DataFrame(numbers.items(), columns=["measure", "value"])
    table.to_csv(zoo / "quality.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
