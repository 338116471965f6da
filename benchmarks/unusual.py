"""What kept backgrounds buy: accuracy on usual and unusual backgrounds, and with biased support.

    python -m benchmarks.unusual

Before any training, queries are cut into thirds of their class by how unusual their background is:
the Mahalanobis distance of the border's mean colour (Lab) to those of the class's support pool.
Two settings are run through the stages, with the support sets of `protocols/photographs-evidence`:
support drawn from the whole pool, and biased support. There, each class's support images come from
the quarter of its pool with the brightest or the darkest borders; classes that are confused most
have opposite ends. `aligned` queries are the third of their class at its support's end, `counter`
those at the other. `worst` is the least accuracy of a class and third, in each task.
Out: benchmarks/unusual.csv (a row per setting, method and group of queries), unusual-classes.csv
(by class and third). Intervals are Student's t over tasks; differences are paired by task.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import pandas as pd

from benchmarks.backgrounds import stack
from benchmarks.borders import THIRDS, border_colours, distances, thirds
from genie.classify.backbone import load_backbone
from genie.classify.classifier import out_of_fold, predict
from genie.classify.examples import load_examples
from genie.classify.files import load_classifiers
from genie.classify.finetune import TrainingSettings
from genie.data.images import decode_image
from genie.errors import GenieError
from genie.keyed import digest
from genie.measure.metrics import SHARE, interval
from genie.tables import IMAGES, Schema, read_images, write_images, write_table
from protocols.execution import row_inputs, run_stages
from protocols.specification import BASELINE, Run, override
from stages.shared.params import Params, check_params, read_yaml
from stages.shared.places import features_file
from stages.shared.progress import bar

GROUPS: Schema = {
    "setting": str,
    "method": str,
    "group": str,
    "accuracy": float,
    "low": float,
    "high": float,
    "to_reference": float,
    "to_reference_low": float,
    "to_reference_high": float,
    "n": int,
}
CLASSES: Schema = {
    "setting": str,
    "method": str,
    "label": str,
    "third": str,
    "accuracy": float,
    "low": float,
    "high": float,
    "n": int,
}
METHODS: Mapping[str, Mapping[str, object]] = {
    "Img2Img H (r = 0.7)": {"method": "img2img", "noise.r": 0.7},
    "Txt2Img": {"method": "txt2img"},
    "Diff-Mix": {"method": "diff-mix", "noise.r": 0.8},
    "GeNIe r = 0.7": {"noise.r": 0.7},
    "GeNIe r = 0.8": {"noise.r": 0.8},
    "GeNIe r = 0.9": {"noise.r": 0.9},
    "GeNIe-Ada": {"noise.least": None},
    "GeNIe-Ada, least 0.8": {"noise.least": 0.8},
}
REFERENCE = "Txt2Img"
WHOLE, BIASED = "whole pool", "biased support"
ENDS = ("aligned", "neutral", "counter")
QUARTER = 4


def queries_of(pool: pd.DataFrame, query: pd.DataFrame) -> pd.DataFrame:
    """Return image_id, label, distance, third and brightness of the queries.

    `brightness` is the third of the class by the lightness of the border: 0 is the darkest.
    """
    colours, of_pool = (border_colours(stack_of(images)) for images in (query, pool))
    found = query[["image_id", "label"]].reset_index(drop=True)
    found["distance"] = 0.0
    for label in found["label"].unique():
        own = (found["label"] == label).to_numpy()
        found.loc[own, "distance"] = distances(
            colours[own], of_pool[(pool["label"] == label).to_numpy()]
        )
    found["third"] = thirds(found["distance"], found["label"]).map(dict(enumerate(THIRDS)))
    found["brightness"] = thirds(pd.Series(colours[:, 0]), found["label"])
    return found


def stack_of(images: pd.DataFrame) -> np.ndarray:
    """Return the pixels of an images table, (n, side, side, 3) uint8."""
    return stack([decode_image(png) for png in images["png"]])


def opposite_ends(matrix: pd.DataFrame, lightness: pd.Series) -> dict[str, bool]:
    """Say for each class whether its support is bright.

    Classes are paired greedily, the most confused first (`matrix`: true, predicted). The lighter
    class of a pair, by the mean `lightness` of its borders, is bright. A class that is left over
    is bright if it is lighter than the median.
    """
    both = matrix + matrix.T
    pairs = sorted(
        ((a, b) for a in both.index for b in both.index if a < b),
        key=lambda p: (-both.loc[p[0], p[1]], p),
    )
    ends: dict[str, bool] = {}
    for a, b in pairs:
        if a not in ends and b not in ends:
            ends[a] = bool(lightness[a] >= lightness[b])
            ends[b] = not ends[a]
    for left in set(both.index) - set(ends):
        ends[left] = bool(lightness[left] > lightness.median())
    return ends


def biased(pool: pd.DataFrame, ends: Mapping[str, bool]) -> pd.DataFrame:
    """Return the quarter of each class's images whose borders are at its end of lightness."""
    lightness = pd.Series(border_colours(stack_of(pool))[:, 0], index=pool.index)
    kept = []
    for label, own in lightness.groupby(pool["label"]):
        ordered = own.sort_values(ascending=not ends[str(label)], kind="stable").index
        kept.append(pool.loc[ordered[: len(ordered) // QUARTER]])
    return pd.concat(kept, ignore_index=True)


def write_once(images: pd.DataFrame, folder: Path) -> None:
    """Write an images table unless the folder has it: a file's time decides what runs again."""
    if not (folder / "images.parquet").is_file() or not read_images(folder).equals(
        images[list(IMAGES)].reset_index(drop=True)
    ):
        write_images(images, folder)


def confusion_of(pool: pd.DataFrame, backbone: Path, root: Path) -> pd.DataFrame:
    """Return mean out-of-fold probabilities of the pool (true, predicted)."""
    examples = load_examples(pool, backbone=load_backbone(backbone, cache=features_file(root)))
    settings = TrainingSettings(Path(), "backbone", 1, 2, 0.1, "cross-entropy", 0, None)
    probabilities = out_of_fold("logistic", examples, settings=settings)
    table = pd.DataFrame(probabilities, columns=sorted(set(examples.labels)))
    return table.groupby(np.array(examples.labels)).mean()


def correct_of(run: Run) -> pd.DataFrame:
    """Return whether each query is classified correctly: model, task, image_id, correct.

    A run that ended before is read.
    """
    path = run.place / "unusual" / f"{digest(row_inputs(run.params)).hex()[:24]}.parquet"
    if path.is_file():
        return pd.read_parquet(path)
    run_stages(run)
    images = read_images(run.place / "data/prepared/query")
    backbone = load_backbone(run.params.classifier.backbone, cache=features_file(run.place))
    queries = load_examples(images, backbone=backbone)
    parts = []
    for name in ("baseline", "augmented"):
        for task, model in load_classifiers(run.place / "models" / name).items():
            correct = predict(model, queries) == np.array(queries.labels)
            own = {"model": name, "task": task, "image_id": images["image_id"], "correct": correct}
            parts.append(pd.DataFrame(own))
    found = pd.concat(parts, ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    found.to_parquet(unfinished, index=False)
    unfinished.replace(path)
    return found


def group_scores(correct: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of each task in each group of queries, a column per group.

    `correct` has the columns task, label, third, correct, and `end` where support is biased.
    """
    by_task = correct.groupby("task")["correct"].mean().rename("all")
    columns = [by_task]
    for key in ("third", "end"):
        if key in correct:
            columns.append(correct.pivot_table("correct", "task", key))
    by_group = correct.groupby(["task", "label", "third"])["correct"].mean()
    return pd.concat([*columns, by_group.groupby("task").min().rename("worst")], axis=1)


def compare(setting: str, correct: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of groups and of classes of one setting."""
    scores = {method: group_scores(own) for method, own in correct.items()}
    groups, classes = [], []
    for method, own in correct.items():
        for group in scores[method]:
            share = interval(scores[method][group], bounds=SHARE)
            gap = interval(scores[method][group] - scores[REFERENCE][group])
            groups.append((setting, method, group, share.mean, share.low, share.high,
                           gap.mean, gap.low, gap.high, share.n))  # fmt: skip
        per_task = own.groupby(["label", "third", "task"])["correct"].mean()
        for (label, third), values in per_task.groupby(["label", "third"]):
            share = interval(values, bounds=SHARE)
            classes.append((setting, method, label, third, share.mean, share.low, share.high,
                            share.n))  # fmt: skip
    return pd.DataFrame(groups, columns=list(GROUPS)), pd.DataFrame(classes, columns=list(CLASSES))


def run_setting(
    setting: str, base: Mapping[str, object], place: Path, queries: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run all methods and compare them; `queries` has the groups by image_id."""
    correct: dict[str, pd.DataFrame] = {}
    for method, changes in bar(METHODS.items(), total=len(METHODS), label=setting):
        params: Params = check_params(override(base, changes), where=f"{setting}: {method}")
        found = correct_of(Run(setting, method, params, place))
        found = found.merge(queries, on="image_id", validate="many_to_one")
        correct.setdefault(BASELINE, found[found["model"] == "baseline"])
        correct[method] = found[found["model"] == "augmented"]
    return compare(setting, correct)


@click.command(help=__doc__)
@click.option("--data", type=Path, default="data/cifar10", show_default=True)
@click.option("--model", type=Path, default="zoo/photographs/generator", show_default=True)
@click.option("--oracle", type=Path, default="zoo/photographs/oracle", show_default=True)
@click.option("--backbone", type=Path, default="zoo/photographs/backbone", show_default=True)
@click.option("--clip", type=Path, default="zoo/photographs/clip", show_default=True)
@click.option("--tasks", type=click.IntRange(2), default=10, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True)
@click.option("--params", "params_file", type=Path, default="params.yaml", show_default=True)
@click.option("--place", type=Path, default=".genie/unusual", show_default=True)
@click.option("--out", type=Path, default="benchmarks", show_default=True, help="Folder.")
def main(
    data: Path, model: Path, oracle: Path, backbone: Path, clip: Path, tasks: int, steps: int,
    params_file: Path, place: Path, out: Path,
) -> None:  # fmt: skip
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    changes = {
        "data.path": str(data), "data.tasks": tasks, "generator.model": str(model),
        "generator.steps": steps, "oracle.model": str(oracle), "classifier.backbone": str(backbone),
        "filter.clip": str(clip), "noise.least": None, "noise.search": "exact",
    }  # fmt: skip
    try:
        base = override(read_yaml(params_file), changes)
        pool, query = read_images(data / "train"), read_images(data / "test")
        queries = queries_of(pool, query)
        lightness = pd.Series(border_colours(stack_of(pool))[:, 0]).groupby(pool["label"]).mean()
        ends = opposite_ends(confusion_of(pool, backbone, place), lightness)
        click.echo("bright: " + ", ".join(sorted(label for label in ends if ends[label])))
        bright = queries["label"].map(ends).to_numpy(bool)
        away = np.where(bright, 2 - queries["brightness"], queries["brightness"])
        ended = queries.assign(end=np.array(ENDS)[away])
        write_once(biased(pool, ends), place / "data/train")
        write_once(query, place / "data/test")
        parts = [
            run_setting(WHOLE, base, place / "whole", queries),
            run_setting(
                BIASED, override(base, {"data.path": str(place / "data")}), place / "biased", ended
            ),
        ]
    except GenieError as error:
        raise click.ClickException(str(error)) from error
    groups, classes = (pd.concat(tables) for tables in zip(*parts, strict=True))
    write_table(groups, out / "unusual.csv", GROUPS)
    write_table(classes, out / "unusual-classes.csv", CLASSES)
    click.echo(groups.to_string(index=False))


if __name__ == "__main__":
    main()
