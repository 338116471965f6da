"""How much of a source's background survives at each noise ratio, and at equal label consistency.

    python -m benchmarks.backgrounds

The same source images are edited by GeNIe (towards another class, drawn once) and by Img2Img
(towards their own) at r = 0.3 ... 1; Txt2Img draws the same targets without a source. Kept is the
correlation of source and image: of the border, of low frequencies outside the centre, of what the
central square leaves and of what saliency masks of the source leave; `centre` is that of the
central square itself, where the object is. Chance is the same for a source and another image of
its target's class. A saliency mask is usable if classifying what it leaves is harder than
classifying what the central square of equal area leaves (benchmarks/backgrounds-masks.csv): then
it covers the object better than a guess.

Out: benchmarks/backgrounds.csv (a row per method, r and measure), backgrounds-equal.csv (kept at
equal label consistency, interpolated over r), backgrounds-masks.csv, backgrounds.png. Intervals
are over source images: Student's t, or the bootstrap where values are interpolated.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks.borders import (
    border,
    central_square,
    correlations,
    low_frequencies,
    most_salient,
    outside_centre,
    spectral_residual,
)
from genie.classify.backbone import (
    ImageModel,
    class_names,
    classify,
    embed,
    load_oracle,
    pixels,
)
from genie.classify.classifier import fit, predict
from genie.classify.examples import Examples
from genie.classify.settings import TrainingSettings
from genie.cli.places import features_file, work_folder
from genie.core.errors import GenieError
from genie.core.seeding import shuffled
from genie.core.tables import Schema, read_images, write_table
from genie.data.images import decode_image
from genie.data.prompts import prompt_for
from genie.figures.canvas import picture, save_figure
from genie.measure.metrics import interval
from genie.pipeline import GeNIe
from genie.plan.requests import Request
from genie.progress import bar
from genie.render.loop import Renderer
from genie.render.model_info import RenderSettings

KEPT: Schema = {
    "method": str,
    "r": float,
    "measure": str,
    "kept": float,
    "low": float,
    "high": float,
    "n": int,
    "label_consistency": float,
    "consistency_low": float,
    "consistency_high": float,
}
EQUAL: Schema = {
    "label_consistency": float,
    "method": str,
    "measure": str,
    "r": float,
    "kept": float,
    "low": float,
    "high": float,
    "n": int,
}
MASKS: Schema = {
    "mask": str,
    "accuracy_of_rest": float,
    "to_square": float,
    "to_square_low": float,
    "to_square_high": float,
    "n": int,
    "usable": bool,
}
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
METHODS = ("GeNIe", "Img2Img", "Txt2Img")
CHANCE = "another image"
SHOWN = "border"
LEVELS = tuple(round(0.3 + 0.05 * i, 2) for i in range(14))
RESAMPLES = 1_000
SEED = 0


def pairs_of(images: pd.DataFrame, count: int) -> pd.DataFrame:
    """Draw `count` sources, equally many of each class, each with a target class.

    The columns are image_id, label, target and other, the id of a real image of the target.
    """
    by_class = {
        label: shuffled(ids, _under(f"{SEED}/source"))
        for label, ids in images.groupby("label")["image_id"]
    }
    classes, rows = sorted(by_class), []
    if count > min(map(len, by_class.values())) * len(classes):
        raise GenieError(f"--sources must be at most {len(images)}, the images there are")
    for i in range(count):
        label = classes[i % len(classes)]
        name = by_class[label][i // len(classes)]
        target = shuffled([c for c in classes if c != label], _under(f"{SEED}/{name}"))[0]
        other = shuffled(by_class[target], _under(f"{SEED}/{name}"))[0]
        rows.append({"image_id": name, "label": label, "target": target, "other": other})
    return pd.DataFrame(rows)


def _under(prefix: str) -> Callable[[str], str]:
    return lambda name: f"{prefix}/{name}"


def requests_of(pairs: pd.DataFrame, method: str, r: float) -> list[Request]:
    """Return a request per pair; Txt2Img takes no source, so r is 1."""
    own = method == "Img2Img"
    return [
        Request(
            source_id=None if method == "Txt2Img" else row.image_id,
            source_label=None if method == "Txt2Img" else row.label,
            target_label=row.label if own else row.target,
            prompt=prompt_for(row.label if own else row.target),
            negative_prompt="",
            r=r,
            replicate=number if method == "Txt2Img" else 0,
            seed=SEED,
            support_id="",
        )
        for number, row in enumerate(pairs.itertuples(index=False))
    ]


def masks_of(images: np.ndarray, oracle: ImageModel) -> dict[str, np.ndarray]:
    """Return the mask of the object in each image by name, (n, side, side), all of equal area."""
    square = central_square(images.shape[1])
    area = int(square.sum())
    return {
        "central square": np.broadcast_to(square, images.shape[:3]),
        "spectral residual": most_salient(spectral_residual(images), area),
        "gradient of the oracle": most_salient(gradient(images, oracle), area),
    }


def gradient(images: np.ndarray, oracle: ImageModel) -> np.ndarray:
    """Return the smoothed size of the gradient of the oracle's largest logit, (n, side, side).

    Simonyan et al. 2014.
    """
    found = []
    for start in range(0, len(images), 50):
        part = [Image.fromarray(image) for image in images[start : start + 50]]
        batch = pixels(part, model=oracle).to(oracle.device).requires_grad_()
        oracle.model(batch).logits.max(1).values.sum().backward()
        assert batch.grad is not None
        size = torch.nn.functional.interpolate(
            batch.grad.abs().sum(1, keepdim=True), images.shape[1:3], mode="area"
        )
        found.append(size[:, 0].cpu().numpy())
    oracle.model.zero_grad()
    return gaussian_filter(np.concatenate(found), sigma=(0, 2, 2))


def judge_masks(
    images: np.ndarray,
    labels: Sequence[str],
    masks: Mapping[str, np.ndarray],
    *,
    train: Examples,
    backbone: ImageModel,
) -> pd.DataFrame:
    """Compare how well logistic regression classifies what each mask leaves (schema MASKS).

    Masked pixels have the mean colour of the rest. The classifier is trained on whole images, and
    is not the oracle, whose gradient makes one of the masks.
    """
    model = fit(train, TrainingSettings())
    right = {}
    for name, mask in masks.items():
        rest = [Image.fromarray(filled(image, m)) for image, m in zip(images, mask, strict=True)]
        seen = Examples(rest, embed(rest, model=backbone), list(labels))
        right[name] = (predict(model, seen) == np.array(labels)).astype(float)
    rows = []
    for name, values in right.items():
        gap = interval(values - right["central square"])
        rows.append(
            {
                "mask": name,
                "accuracy_of_rest": round(float(values.mean()), 6),
                "to_square": gap.mean,
                "to_square_low": gap.low,
                "to_square_high": gap.high,
                "n": len(values),
                "usable": gap.high is not None and gap.high < 0,
            }
        )
    return pd.DataFrame(rows)


def filled(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the image with masked pixels in the mean colour of the others."""
    result = image.copy()
    result[mask] = image[~mask].mean(0).round()
    return result


def measures(
    sources: np.ndarray, images: np.ndarray, masks: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return every measure of how much of the sources is kept, (n,) in [-1, 1]."""
    square = central_square(sources.shape[1])
    return {
        SHOWN: correlations(sources, images, border(sources.shape[1])),
        "low frequencies": correlations(
            low_frequencies(sources), low_frequencies(images), outside_centre()
        ),
        **{f"outside {name}": correlations(sources, images, ~mask) for name, mask in masks.items()},
        "centre": correlations(sources, images, square),
    }


def first_reached(consistency: np.ndarray, values: np.ndarray, level: float) -> float:
    """Interpolate `values` over ascending r to where label consistency first reaches `level`.

    The value of the lowest r if that has reached it, and NaN if none has.
    """
    reached = np.flatnonzero(consistency >= level)
    if not len(reached):
        return float("nan")
    i = int(reached[0])
    if i == 0:
        return float(values[0])
    share = (level - consistency[i - 1]) / (consistency[i] - consistency[i - 1])
    return float(values[i - 1] + share * (values[i] - values[i - 1]))


def at_equal_consistency(
    scores: pd.DataFrame, levels: Sequence[float] = LEVELS, *, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Return what each method keeps where its label consistency reaches a level (schema EQUAL).

    `scores` has a row per method, r and source, with consistent and a column per measure.
    Intervals are percentiles over resampled sources.
    """
    rows = []
    for method, own in scores.groupby("method", sort=False):
        wide = {c: own.pivot(index="r", columns="source", values=c) for c in own.columns[3:]}
        consistent, r = wide.pop("consistent").to_numpy(float), wide[SHOWN].index.to_numpy()
        n = consistent.shape[1]
        draws = np.random.default_rng(SEED).integers(n, size=(resamples, n))
        curves = [consistent[:, d].mean(1) for d in draws]
        for name, values in wide.items():
            kept = values.to_numpy()
            drawn = [np.nanmean(kept[:, d], axis=1) for d in draws]
            for level in levels:
                found = [first_reached(c, k, level) for c, k in zip(curves, drawn, strict=True)]
                seen = [value for value in found if value == value]
                if len(seen) < 0.95 * resamples:
                    continue  # the method does not reach the level
                low, high = np.quantile(seen, [0.025, 0.975])
                curve = consistent.mean(1)
                rows.append(
                    {
                        "label_consistency": level,
                        "method": method,
                        "measure": name,
                        "r": first_reached(curve, r, level),
                        "kept": first_reached(curve, np.nanmean(kept, axis=1), level),
                        "low": low,
                        "high": high,
                        "n": n,
                    }
                )
    return pd.DataFrame(rows, columns=list(EQUAL)).round(6)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method, r and measure with intervals over sources (schema KEPT)."""
    rows = []
    for (method, r), own in scores.groupby(["method", "r"], sort=False, dropna=False):
        shares = own["consistent"].dropna()
        consistent = interval(shares, bounds=(0, 1))
        for name in own.columns[4:]:
            kept = interval(own[name].dropna())
            rows.append(
                {
                    "method": method,
                    "r": r,
                    "measure": name,
                    "kept": kept.mean,
                    "low": kept.low,
                    "high": kept.high,
                    "n": kept.n,
                    "label_consistency": consistent.mean,
                    "consistency_low": consistent.low,
                    "consistency_high": consistent.high,
                }
            )
    return pd.DataFrame(rows, columns=list(KEPT))


def score(
    pairs: pd.DataFrame, sources: np.ndarray, masks: Mapping[str, np.ndarray], renderer: Renderer,
    oracle: ImageModel, others: np.ndarray,
) -> tuple[pd.DataFrame, dict[tuple[str, float], list[Image.Image]]]:  # fmt: skip
    """Return a row per method, r and source, and the images by method and r."""
    requests = {
        (method, r): requests_of(pairs, method, r)
        for method in METHODS
        for r in (RATIOS if method != "Txt2Img" else (1.0,))
    }
    steps = renderer.engine.info.steps
    renderer.ensure([q for some in requests.values() for q in some], steps=steps)
    names, parts, images = np.array(class_names(oracle)), [], {}
    for (method, r), some in bar(requests.items(), "measure", total=len(requests)):
        made = [renderer.store.image(renderer.key(q, steps)) for q in some]
        images[method, r] = made
        predicted = names[classify(made, model=oracle).argmax(1)]
        consistent = predicted == np.array([q.target_label for q in some])
        kept = measures(sources, stack(made), masks)
        head = {"method": method, "r": r, "source": range(len(made)), "consistent": consistent}
        parts.append(pd.DataFrame(head | kept))
    head = {"method": CHANCE, "r": np.nan, "source": range(len(others)), "consistent": np.nan}
    parts.append(pd.DataFrame(head | measures(sources, others, masks)))
    return pd.concat(parts, ignore_index=True), images


def stack(images: Sequence[Image.Image]) -> np.ndarray:
    """Return images as (n, side, side, 3) uint8."""
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def draw_rows(
    pairs: pd.DataFrame, sources: np.ndarray, images: Mapping[tuple[str, float], list[Image.Image]],
    path: Path, count: int = 3,
) -> None:  # fmt: skip
    """Draw the first sources over r, a row of images for each method."""
    count = min(count, len(pairs))
    figure = Figure(figsize=(0.95 * (len(RATIOS) + 1), 1.55 * 3 * count), dpi=110)
    grid = figure.subplots(3 * count, len(RATIOS) + 1, squeeze=False)
    for i, method in ((i, m) for i in range(count) for m in METHODS):
        axes, row = grid[3 * i + METHODS.index(method)], pairs.iloc[i]
        for axis in axes:
            axis.set_axis_off()
        goal = row.label if method == "Img2Img" else row.target
        axes[0].set_axis_on()
        picture(axes[0], Image.fromarray(sources[i]), f"{method}\n{row.label}\nto {goal}")
        for axis, r in zip(axes[1:], RATIOS, strict=True):
            if (method, r) in images:
                axis.set_axis_on()
                picture(axis, images[method, r][i], f"r = {r:g}")
    save_figure(figure, path, pad=0.3)


def draw_curves(table: pd.DataFrame, path: Path) -> None:
    """Plot what is kept of border and centre against label consistency, a curve per method."""
    figure = Figure(figsize=(9, 3.8), dpi=110)
    for axis, name in zip(figure.subplots(1, 2, sharey=True), (SHOWN, "centre"), strict=True):
        part = table[table["measure"] == name]
        for method, own in part[part["method"] != CHANCE].groupby("method", sort=False):
            error = (own["kept"] - own["low"], own["high"] - own["kept"])
            spread = (
                own["label_consistency"] - own["consistency_low"],
                own["consistency_high"] - own["label_consistency"],
            )
            axis.errorbar(
                own["label_consistency"], own["kept"], yerr=error, xerr=spread,
                marker="o", ms=4, lw=1.2, elinewidth=0.6, label=method,
            )  # fmt: skip
            if method == "GeNIe":
                for row in own.itertuples():
                    axis.annotate(f"{row.r:g}", (row.label_consistency, row.kept), fontsize=7)
        chance = part.loc[part["method"] == CHANCE, "kept"].iloc[0]
        axis.axhline(chance, color="grey", ls="--", lw=0.8, label=CHANCE)
        axis.set_title(f"{name} of the source that is kept", fontsize=9)
        axis.set_xlabel("label consistency", fontsize=8)
    figure.axes[0].set_ylabel("correlation with the source", fontsize=8)
    figure.axes[0].legend(fontsize=7)
    save_figure(figure, path)


@click.command(help=__doc__)
@click.option("--data", type=Path, default="data/cifar10", show_default=True)
@click.option("--models", type=Path, default="zoo/photographs", show_default=True)
@click.option("--sources", "count", type=click.IntRange(2), default=300, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True)
@click.option("--out", type=Path, default="benchmarks", show_default=True, help="Folder.")
def main(data: Path, models: Path, count: int, steps: int, out: Path) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    try:
        run(data, models, count=count, steps=steps, out=out)
    except GenieError as error:
        raise click.ClickException(str(error)) from error


def run(data: Path, models: Path, *, count: int, steps: int, out: Path) -> None:
    """Measure and write all tables and figures; `models` holds generator, backbone and oracle."""
    root = Path()
    pool = read_images(data / "train")
    pairs = pairs_of(pool, count)
    png = dict(zip(pool["image_id"], pool["png"], strict=True))
    sources = stack([decode_image(png[name]) for name in pairs["image_id"]])
    others = stack([decode_image(png[name]) for name in pairs["other"]])
    oracle = load_oracle(models / "oracle", cache=features_file(root))
    pipe = GeNIe.from_pretrained(
        models / "generator",
        embedder=models / "backbone",
        store=work_folder(root),
        settings=RenderSettings(steps=steps),
    )
    assert pipe.embedder is not None
    masks = masks_of(sources, oracle)
    rest = pool[~pool["image_id"].isin(pairs["image_id"])]
    pictures = [decode_image(one) for one in rest["png"]]
    train = Examples(pictures, embed(pictures, model=pipe.embedder), list(rest["label"]))
    judged = judge_masks(sources, pairs["label"], masks, train=train, backbone=pipe.embedder)
    write_table(judged, out / "backgrounds-masks.csv", MASKS)
    renderer = Renderer(pipe.engine, pipe.store, png, bar)
    scores, images = score(pairs, sources, masks, renderer, oracle, others)
    table = summary(scores)
    write_table(table, out / "backgrounds.csv", KEPT)
    equal = at_equal_consistency(scores[scores["method"] != CHANCE])
    write_table(equal, out / "backgrounds-equal.csv", EQUAL)
    draw_rows(pairs, sources, images, out / "backgrounds-rows.png")
    draw_curves(table, out / "backgrounds.png")
    for part in (judged, table[table["measure"].isin([SHOWN, "centre"])], equal):
        click.echo(part.to_string(index=False) + "\n")


if __name__ == "__main__":
    main()
