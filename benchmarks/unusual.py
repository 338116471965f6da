"""What kept backgrounds buy: accuracy on usual and unusual backgrounds, and with biased support.

    python -m benchmarks.unusual

Before any training, queries are cut into thirds of their class by how unusual their background is:
the Mahalanobis distance of the border's mean colour (Lab) to those of the class's support pool.
Rows of `protocols/photographs-evidence` are run through the stages in two settings: support drawn
from the whole pool, as there, and biased support. Then each class's support images come from
the quarter of its pool with the brightest or the darkest borders; classes that are confused most
have opposite ends. `aligned` queries are the third of their class at its support's end, `counter`
those at the other. `worst` is the least accuracy of a class and third, in each task. `boundary` is
the accuracy between the classes that are most often taken for one another on the support images,
two at a time, of all queries and of each group. `unusual minus usual` and `counter minus aligned`
are differences of accuracies: whether a method helps one group more than the other.
A row that ran before is read; a run that was stopped goes on with the same command.
Out: benchmarks/unusual.csv (a row per setting, method and group of queries), unusual-classes.csv
(by class and third), unusual-sources.csv (how many of the biased setting's source classes have the
other end than their target, by strategy), unusual.png. Intervals over tasks are those of the
protocols' tables, wider than Student's t by the images that tasks share (`shared`), and not
corrected for how many there are; differences are paired by task.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.backgrounds import stack
from benchmarks.borders import THIRDS, border_colours, distances, thirds
from genie.classify.backbone import load_backbone
from genie.classify.classifier import out_of_fold, predict_proba
from genie.classify.confusion import boundary_pairs, confusion
from genie.classify.examples import load_examples
from genie.classify.files import load_classifiers
from genie.classify.settings import TrainingSettings
from genie.cli.messages import in_keys
from genie.cli.places import features_file
from genie.core.errors import GenieError
from genie.core.seeding import digest
from genie.core.tables import (
    CONFUSION,
    IMAGES,
    SOURCES,
    TASKS,
    Schema,
    read_images,
    read_table,
    write_images,
    write_table,
)
from genie.data.images import decode_image
from genie.data.readers import read_pools
from genie.figures.canvas import save_figure
from genie.measure.metrics import DIFFERENCE, SHARE, interval
from genie.progress import bar
from genie.settings import read_yaml, require_paths
from protocols.execution import row_inputs, run_stages, run_upstream, shared_support
from protocols.specification import BASELINE, Protocol, Row, Setting, read_protocol, rows_of
from stages import select_sources

REFERENCES = {"to_txt2img": "Txt2Img", "to_img2img": "Img2Img H (r = 0.7)"}
GROUPS: Schema = {
    "setting": str,
    "method": str,
    "group": str,
    "accuracy": float,
    "low": float,
    "high": float,
    **{f"{name}{end}": float for name in REFERENCES for end in ("", "_low", "_high")},
    "n": int,
    "shared": float,
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
SOURCE_ENDS: Schema = {
    "strategy": str,
    "opposite": float,
    "low": float,
    "high": float,
    "n": int,
}
METHODS = (
    "Txt2Img",
    "Img2Img H (r = 0.7)",
    "GeNIe r = 0.7",
    "GeNIe r = 0.8",
    "GeNIe r = 0.9",
    "GeNIe-Ada, confused sources",
    "GeNIe-Ada, least 0.8",
)
OWN_ROWS = {
    f"GeNIe r = 0.8, {strategy} sources": {"noise.r": 0.8, "sources.strategy": strategy}
    for strategy in ("random", "distant")
}
"""Rows that the protocol does not have: its sources compete over all levels, which costs more."""
WHOLE, BIASED = "whole pool", "biased support"
ENDS = ("aligned", "neutral", "counter")
BOUNDARY = "boundary"
CONTRASTS = {
    "unusual minus usual": ("unusual", "usual"),
    "counter minus aligned": ("counter", "aligned"),
}
SHOWN = (
    "all",
    *THIRDS,
    *ENDS,
    *CONTRASTS,
    "worst",
    *(f"{BOUNDARY}{group}" for group in ("", ", unusual", ", counter")),
)
"""Groups of queries in the figure, from top to bottom."""
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
    """Return for each class whether its support is bright.

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
    probabilities = out_of_fold(examples, TrainingSettings())
    table = pd.DataFrame(probabilities, columns=sorted(set(examples.labels)))
    return table.groupby(np.array(examples.labels)).mean()


def at_boundary(
    shares: np.ndarray, labels: np.ndarray, classes: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return in how many pairs of classes each query is, and in how many of them it is right, (n,).

    `shares` (n, c) has the columns `classes`.
    """
    column = {c: i for i, c in enumerate(classes)}
    count, right = np.zeros(len(labels), int), np.zeros(len(labels), int)
    for a, b in pairs:
        inside = np.isin(labels, (a, b))
        predicted_a = shares[:, column[a]] >= shares[:, column[b]]
        count += inside
        right += inside & (predicted_a == (labels == a))
    return count, right


def answers_of(row: Row) -> pd.DataFrame:
    """Return how each query is classified: model, task, image_id, correct, pairs, right_pairs.

    The last two count the pairs at the decision boundary. The result of a row that ran before is
    read.
    """
    path = row.place / "unusual" / f"{digest(row_inputs(row.params)).hex()[:24]}.parquet"
    if path.is_file():
        return pd.read_parquet(path)
    run_stages(row)
    images = read_images(row.place / "data/prepared/query")
    backbone = load_backbone(row.params.classifier.backbone, cache=features_file(row.place))
    queries = load_examples(images, backbone=backbone)
    labels = np.array(queries.labels)
    matrices = read_table(row.place / "data/sources/confusion.csv", CONFUSION)
    pairs = {t: boundary_pairs(confusion(rows)) for t, rows in matrices.groupby("task")}
    parts = []
    for name in ("baseline", "augmented"):
        for task, model in load_classifiers(row.place / "models" / name).items():
            shares = predict_proba(model, queries)
            correct = np.array(model.classes)[shares.argmax(1)] == labels
            count, right = at_boundary(shares, labels, model.classes, pairs[task])
            own = {"model": name, "task": task, "image_id": images["image_id"], "correct": correct}
            parts.append(pd.DataFrame(own | {"pairs": count, "right_pairs": right}))
    found = pd.concat(parts, ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    found.to_parquet(unfinished, index=False)
    unfinished.replace(path)
    return found


def group_scores(answers: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of each task in each group of queries, a column per group.

    `answers` has the columns task, label, third, correct, pairs, right_pairs, and `end` where
    support is biased.
    """
    columns = [*_shares(answers.groupby("task"), "all", BOUNDARY)]
    for key in [key for key in ("third", "end") if key in answers]:
        for group in dict.fromkeys([*THIRDS, *ENDS]):
            own = answers[answers[key] == group]
            columns += _shares(own.groupby("task"), group, f"{BOUNDARY}, {group}")
    by_group = answers.groupby(["task", "label", "third"])["correct"].mean()
    columns.append(by_group.groupby("task").min().rename("worst"))
    table = pd.concat([column for column in columns if len(column)], axis=1)
    contrasts = {name: pair for name, pair in CONTRASTS.items() if set(pair) <= set(table)}
    return table.assign(**{name: table[a] - table[b] for name, (a, b) in contrasts.items()})


def _shares(groups, accuracy: str, boundary: str) -> list[pd.Series]:  # type: ignore[no-untyped-def]
    """Return the accuracy and the accuracy at the boundary of each group."""
    sums = groups[["pairs", "right_pairs"]].sum()
    near = (sums["right_pairs"] / sums["pairs"]).rename(boundary)
    return [groups["correct"].mean().rename(accuracy), near]


def compare(
    setting: str, answers: Mapping[str, pd.DataFrame], *, shared: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of groups and of classes of one setting.

    `shared` is the share of support images that two tasks have in common.
    """
    scores = {method: group_scores(own) for method, own in answers.items()}
    groups, classes = [], []
    for method, own in answers.items():
        for group in scores[method]:
            bounds = DIFFERENCE if group in CONTRASTS else SHARE
            share = interval(scores[method][group], bounds=bounds, shared=shared)
            row = [setting, method, group, share.mean, share.low, share.high]
            for reference in REFERENCES.values():
                gap = interval(scores[method][group] - scores[reference][group], shared=shared)
                row += [gap.mean, gap.low, gap.high]
            groups.append((*row, share.n, shared))
        per_task = own.groupby(["label", "third", "task"])["correct"].mean()
        for (label, third), values in per_task.groupby(["label", "third"]):
            share = interval(values, bounds=SHARE, shared=shared)
            classes.append((setting, method, label, third, share.mean, share.low, share.high,
                            share.n))  # fmt: skip
    return pd.DataFrame(groups, columns=list(GROUPS)), pd.DataFrame(classes, columns=list(CLASSES))


def settings_of(protocol: Protocol, tasks: int, biased_data: Path) -> Protocol:
    """Return the protocol with the two settings of this trial, the rows METHODS and OWN_ROWS."""
    if missing := [method for method in METHODS if method not in protocol.rows]:
        raise GenieError(f"--protocol must have a row {missing[0]!r}; add it")
    own = {WHOLE: {}, BIASED: {"data.path": str(biased_data)}}
    rows = (*METHODS, *OWN_ROWS)
    return replace(
        protocol,
        params={**protocol.params, "data.tasks": tasks},
        settings={name: Setting(changes, rows) for name, changes in own.items()},
        rows={**protocol.rows, **OWN_ROWS},
    )


def run_all(
    rows: Sequence[Row], queries: Mapping[str, pd.DataFrame]
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Run or read all rows and compare those of each setting.

    `queries` holds the groups by image_id for each setting.
    """
    answers: dict[str, dict[str, pd.DataFrame]] = {setting: {} for setting in queries}
    for row in bar(rows, "rows", total=len(rows), unit="row"):
        click.echo(f"{row.setting}: {row.name}", err=True)
        own = queries[row.setting]
        found = answers_of(row).merge(own, on="image_id", validate="many_to_one")
        answers[row.setting].setdefault(BASELINE, found[found["model"] == "baseline"])
        answers[row.setting][row.name] = found[found["model"] == "augmented"]
    places = {row.setting: row.place / "data/prepared/tasks.csv" for row in rows}
    shared = {name: shared_support(read_table(path, TASKS)) for name, path in places.items()}
    return [compare(name, own, shared=shared[name]) for name, own in answers.items()]


def source_ends(rows: Sequence[Row], ends: Mapping[str, bool]) -> pd.DataFrame:
    """Return how many source classes have the other end than their target (schema SOURCE_ENDS)."""
    first = {row.params.sources.strategy: row for row in reversed(rows) if row.setting == BIASED}
    found = []
    for strategy, row in sorted(first.items()):
        select_sources.main.main(run_upstream(row), standalone_mode=False)
        sources = read_table(row.place / "data/sources/sources.csv", SOURCES)
        apart = sources["target"].map(ends) != sources["source"].map(ends)
        shared = shared_support(read_table(row.place / "data/prepared/tasks.csv", TASKS))
        share = interval(apart.groupby(sources["task"]).mean(), bounds=SHARE, shared=shared)
        found.append((strategy, share.mean, share.low, share.high, share.n))
    return pd.DataFrame(found, columns=list(SOURCE_ENDS))


def draw(groups: pd.DataFrame, path: Path) -> Figure:
    """Plot the differences to Txt2Img with intervals by group of queries, a panel per setting.

    Return the figure, as it is written to `path`.
    """
    reference = REFERENCES["to_txt2img"]
    methods = [m for m in (*METHODS, *OWN_ROWS) if m != reference]
    settings = list(dict.fromkeys(groups["setting"]))
    figure = Figure(figsize=(4.2 * len(settings) + 2.4, 8), dpi=110)
    axes = figure.subplots(1, len(settings), squeeze=False)[0]
    for axis, setting in zip(axes, settings, strict=True):
        table = groups[groups["setting"] == setting]
        names = [n for n in SHOWN if n in set(table["group"])]
        for number, method in enumerate(methods):
            own = table[table["method"] == method].set_index("group").loc[names]
            low, mean, high = (
                100 * own[f"to_txt2img{end}"].to_numpy(float) for end in ("_low", "", "_high")
            )
            place = np.arange(len(names)) + 0.11 * (number - (len(methods) - 1) / 2)
            axis.errorbar(
                mean, place, xerr=(mean - low, high - mean), fmt="o", ms=3, elinewidth=0.9,
                label=method,
            )  # fmt: skip
        for between in np.arange(1, len(names)) - 0.5:
            axis.axhline(between, color="lightgrey", lw=0.6)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_yticks(range(len(names)), names, fontsize=9)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_title(setting, fontsize=10)
        axis.set_xlabel(f"minus {reference}, points of accuracy (right of 0: better)", fontsize=9)
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    save_figure(figure, path)
    return figure


@click.command(help=__doc__)
@click.option("--protocol", type=Path, default="protocols/photographs-evidence", show_default=True)
@click.option("--tasks", type=click.IntRange(2), default=20, show_default=True)
@click.option("--params", "params_file", type=Path, default="params.yaml", show_default=True)
@click.option("--place", type=Path, default=".genie/unusual", show_default=True)
@click.option("--out", type=Path, default="benchmarks", show_default=True, help="Folder.")
def main(protocol: Path, tasks: int, params_file: Path, place: Path, out: Path) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    try:
        own = settings_of(read_protocol(protocol / "protocol.yaml"), tasks, place / "data")
        rows = rows_of(own, read_yaml(params_file), place)
        queries, ends = prepare_queries(rows[0], place)
        parts = run_all(rows, queries)
        sources = source_ends(rows, ends)
    except GenieError as error:
        raise click.ClickException(in_keys(error)) from error
    groups, classes = (pd.concat(tables) for tables in zip(*parts, strict=True))
    write_table(groups, out / "unusual.csv", GROUPS)
    write_table(classes, out / "unusual-classes.csv", CLASSES)
    write_table(sources, out / "unusual-sources.csv", SOURCE_ENDS)
    draw(groups, out / "unusual.png")
    click.echo(groups.to_string(index=False))


def prepare_queries(row: Row, place: Path) -> tuple[dict[str, pd.DataFrame], dict[str, bool]]:
    """Write the biased pool into `place`/data.

    Return the groups of queries of each setting, and whether each class's support is bright.
    """
    data, backbone = row.params.data.path, row.params.classifier.backbone
    require_paths(row.params)
    pool, query = read_pools(data)
    if query is None:
        raise GenieError(f"data.path must have a test/ split, got {data}; add one")
    queries = queries_of(pool, query)
    lightness = pd.Series(border_colours(stack_of(pool))[:, 0]).groupby(pool["label"]).mean()
    ends = opposite_ends(confusion_of(pool, backbone, place), lightness)
    click.echo("bright: " + ", ".join(sorted(label for label in ends if ends[label])))
    bright = queries["label"].map(ends).to_numpy(bool)
    away = np.where(bright, 2 - queries["brightness"], queries["brightness"])
    write_once(biased(pool, ends), place / "data/train")
    write_once(query, place / "data/test")
    return {WHOLE: queries, BIASED: queries.assign(end=np.array(ENDS)[away])}, ends


if __name__ == "__main__":
    main()
