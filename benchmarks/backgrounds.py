"""How much of a source's background survives at each noise ratio and at equal label consistency.

    python -m benchmarks.backgrounds

GeNIe edits each source image towards another class, which is drawn once. Img2Img edits each source
image towards its own class. Both use r from 0.3 to 1. Txt2Img draws the same targets without a
source. `border` and `centre` are the correlations between the source and the generated image over a
frame and over the central square, which contains the object. Chance is the correlation with another
image of the target class.

Outputs: benchmarks/backgrounds.csv (one row per method, r and measure), backgrounds-equal.csv (at
equal label consistency, interpolated over r) and backgrounds.png. Intervals over source images are
computed with Student's t, or with the bootstrap for interpolated values.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from genie.classify.backbone import ImageModel, class_names, classify, load_oracle
from genie.cli.places import features_file, work_folder
from genie.core.seeding import shuffled
from genie.core.tables import read_images
from genie.data.images import decode_image
from genie.data.prompts import prompt_for
from genie.figures.canvas import save_figure
from genie.measure.metrics import SHARE, interval
from genie.pipeline import GeNIe
from genie.plan.requests import Request
from genie.progress import bar
from genie.render.loop import Renderer
from genie.render.model_info import RenderSettings

RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
METHODS = {"GeNIe": RATIOS, "Img2Img": RATIOS, "Txt2Img": (1.0,)}
CHANCE = "another image"
MEASURES = ("border", "centre")
LEVELS = tuple(round(0.3 + 0.05 * i, 2) for i in range(14))
SEED = 0

Images = Sequence[Image.Image]


def pairs_of(images: pd.DataFrame, count: int) -> pd.DataFrame:
    """Draw `count` sources, balanced over classes, and a target class for each.

    The columns are image_id, label, target and other, which is the id of a real image of the
    target.
    """
    by_class = {
        label: _in_random_order(ids, "source") for label, ids in images.groupby("label")["image_id"]
    }
    classes, rows = sorted(by_class), []
    if count > min(map(len, by_class.values())) * len(classes):
        raise click.ClickException(f"--sources must be at most {len(images)}, got {count}")
    for i in range(count):
        label = classes[i % len(classes)]
        name = by_class[label][i // len(classes)]
        target = _in_random_order((c for c in classes if c != label), name)[0]
        other = _in_random_order(by_class[target], name)[0]
        rows.append({"image_id": name, "label": label, "target": target, "other": other})
    return pd.DataFrame(rows)


def _in_random_order(names: Iterable[str], purpose: str) -> list[str]:
    return shuffled(names, lambda name: f"{SEED}/{purpose}/{name}")


def requests_of(pairs: pd.DataFrame, method: str, r: float) -> list[Request]:
    """Return one request per pair."""
    requests = []
    for number, row in enumerate(pairs.itertuples()):
        source, label, target, replicate = row.image_id, row.label, row.target, 0
        if method == "Img2Img":
            target = label
        if method == "Txt2Img":
            source, label, replicate = None, None, number
        prompt = prompt_for(target)
        requests.append(Request(source, label, target, prompt, "", r, replicate, SEED, ""))
    return requests


def measures(sources: Images, images: Images) -> dict[str, list[float]]:
    """Return each source's correlation with its generated image, over the border and the centre.

    The border is a frame 1/8 of the side wide, and the centre is half of the area.
    """
    side = sources[0].width
    near = np.minimum(np.arange(side), np.arange(side)[::-1])
    depth = np.minimum.outer(near, near)
    masks = depth < max(1, side // 8), depth >= round(side * (1 - 0.5**0.5) / 2)
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(sources, images, strict=True)]
    return {
        name: [_correlation(a[mask], b[mask]) for a, b in pairs]
        for name, mask in zip(MEASURES, masks, strict=True)
    }


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson's correlation over all values, or NaN if one array is constant."""
    a, b = (v.astype(float).ravel() - v.mean() for v in (first, second))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


def score(
    pairs: pd.DataFrame, png: Mapping[str, bytes], pipe: GeNIe, oracle: ImageModel
) -> pd.DataFrame:
    """Return one row per method, r and source, with `consistent` and a column per measure."""
    sources = [decode_image(png[name]) for name in pairs["image_id"]]
    others = [decode_image(png[name]) for name in pairs["other"]]
    renderer = Renderer(pipe.engine, pipe.store, png, bar)
    requests = {(m, r): requests_of(pairs, m, r) for m, ratios in METHODS.items() for r in ratios}
    steps = renderer.engine.info.steps
    renderer.ensure([q for some in requests.values() for q in some], steps=steps)
    names, parts = np.array(class_names(oracle)), []
    for (method, r), some in bar(requests.items(), "measure", total=len(requests)):
        made = [renderer.store.image(renderer.key(q, steps)) for q in some]
        predicted = names[classify(made, model=oracle).argmax(1)]
        consistent = (predicted == np.array([q.target_label for q in some])).astype(float)
        head = {"method": method, "r": r, "source": range(len(made)), "consistent": consistent}
        parts.append(pd.DataFrame(head | measures(sources, made)))
    head = {"method": CHANCE, "r": np.nan, "source": range(len(others)), "consistent": np.nan}
    parts.append(pd.DataFrame(head | measures(sources, others)))
    return pd.concat(parts, ignore_index=True)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method, r and measure, with intervals over sources."""
    rows = []
    for (method, r), own in scores.groupby(["method", "r"], sort=False, dropna=False):
        share = interval(own["consistent"].dropna(), bounds=SHARE)
        for name in MEASURES:
            kept = interval(own[name].dropna())
            row = {"method": method, "r": r, "measure": name, "kept": kept.mean, "low": kept.low}
            row |= {"high": kept.high, "n": kept.n, "label_consistency": share.mean}
            rows.append(row | {"consistency_low": share.low, "consistency_high": share.high})
    return pd.DataFrame(rows)


def at_equal_consistency(
    scores: pd.DataFrame, levels: Sequence[float] = LEVELS, *, resamples: int = 1_000
) -> pd.DataFrame:
    """Return each method's correlations at the r where its label consistency reaches a level.

    Intervals are percentiles over resampled sources. A level that a method reaches in fewer than
    95% of the samples is left out.
    """
    rows = []
    for method, own in scores.groupby("method", sort=False):
        wide = own.pivot(index="r", columns="source")
        consistent, r = wide["consistent"].to_numpy(float), wide.index.to_numpy()
        curve, n = consistent.mean(1), consistent.shape[1]
        draws = np.random.default_rng(SEED).integers(n, size=(resamples, n))
        curves = [consistent[:, d].mean(1) for d in draws]
        for name in MEASURES:
            kept = wide[name].to_numpy()
            drawn = [np.nanmean(kept[:, d], axis=1) for d in draws]
            for level in levels:
                found = [first_reached(c, k, level) for c, k in zip(curves, drawn, strict=True)]
                seen = [value for value in found if value == value]
                if len(seen) < 0.95 * resamples:
                    continue
                row = {"label_consistency": level, "method": method, "measure": name}
                row |= {"r": first_reached(curve, r, level)}
                row |= {"kept": first_reached(curve, np.nanmean(kept, axis=1), level)}
                low, high = np.quantile(seen, [0.025, 0.975])
                rows.append(row | {"low": low, "high": high, "n": n})
    return pd.DataFrame(rows).round(6)


def first_reached(consistency: np.ndarray, values: np.ndarray, level: float) -> float:
    """Interpolate `values` at the lowest r where label consistency reaches `level`.

    Both arrays are in ascending order of r. The result is the first value if the lowest r reaches
    the level, and NaN if no r reaches the level.
    """
    if level > consistency.max():
        return float("nan")
    i = int(np.argmax(consistency >= level))
    around = slice(max(i - 1, 0), i + 1)
    return float(np.interp(level, consistency[around], values[around]))


def draw(table: pd.DataFrame, path: Path) -> None:
    """Plot the correlations against label consistency, with one curve per method."""
    figure = Figure(figsize=(9, 3.8), dpi=110)
    for axis, name in zip(figure.subplots(1, 2, sharey=True), MEASURES, strict=True):
        part = table[table["measure"] == name].set_index("method")
        for method in METHODS:
            own = part.loc[[method]]
            x, y = own["label_consistency"], own["kept"]
            axis.errorbar(
                x, y, yerr=(y - own["low"], own["high"] - y),
                xerr=(x - own["consistency_low"], own["consistency_high"] - x),
                marker="o", ms=4, lw=1.2, elinewidth=0.6, label=method,
            )  # fmt: skip
        for r, x, y in part.loc["GeNIe", ["r", "label_consistency", "kept"]].to_numpy():
            axis.annotate(f"{r:g}", (x, y), fontsize=7)
        axis.axhline(part.loc[CHANCE, "kept"], color="grey", ls="--", lw=0.8, label=CHANCE)
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
    images = read_images(data / "train")
    png = dict(zip(images["image_id"], images["png"], strict=True))
    pairs = pairs_of(images, count)
    settings, store = RenderSettings(steps=steps), work_folder(Path())
    pipe = GeNIe.from_pretrained(models / "generator", store=store, settings=settings)
    oracle = load_oracle(models / "oracle", cache=features_file(Path()))
    scores = score(pairs, png, pipe, oracle)
    table, equal = summary(scores), at_equal_consistency(scores[scores["method"] != CHANCE])
    draw(table, out / "backgrounds.png")
    for name, rows in (("backgrounds", table), ("backgrounds-equal", equal)):
        rows.to_csv(out / f"{name}.csv", index=False, lineterminator="\n")
        click.echo(rows.to_string(index=False) + "\n")


if __name__ == "__main__":
    main()
