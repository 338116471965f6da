"""Rules that choose r* from the positions of the levels, compared on images that no task uses.

    python -m benchmarks.rules

The pipeline runs on the support pool alone (`data/bundled/train`): `prepare` splits its images into
support and queries of the trial, so no query image of the published tables is seen. The image of
each slot is rendered at all levels once. Each rule then chooses among these, a classifier is
trained on support and chosen images, and accuracy is compared with that of r = 0.8, paired by task.
Out: benchmarks/rules.csv, a row per setting and rule; intervals are Student's t over tasks.
`to_best` is the difference to the best of the rules "least".
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd
from PIL import Image

from genie.choose.adaptive import axis_positions, largest_shift
from genie.classify.backbone import class_names, classify, load_backbone, load_oracle
from genie.classify.classifier import fit, predict
from genie.classify.examples import Examples, join, load_examples, picker
from genie.classify.settings import TrainingSettings
from genie.cli.places import features_file, store_folder
from genie.core.tables import TASKS, TRAJECTORIES, Schema, read_images, read_table, write_table
from genie.measure.metrics import interval, paired_p
from genie.progress import bar
from genie.render.store import DiskStore
from genie.settings import check_params, read_yaml
from protocols.execution import run_stages
from protocols.specification import Row, override

RULE_TABLE: Schema = {
    "setting": str,
    "rule": str,
    "accuracy": float,
    "to_fixed": float,
    "to_fixed_low": float,
    "to_fixed_high": float,
    "to_paper": float,
    "to_paper_low": float,
    "to_paper_high": float,
    "p_paper": float,
    "to_best": float,
    "to_best_low": float,
    "to_best_high": float,
    "n": int,
    "label_consistency": float,
    "mean_r": float,
    "moved": float,
}
POOL = "data/bundled/train"
FIXED, PAPER = "r = 0.8", "largest shift"
BOUNDS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
SEEDS = {"1-shot, 5-way": (101, 102), "5-shot, ten classes": (101,)}
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "1-shot, 5-way": {
        "data.regime": "episodes",
        "data.shots": 1,
        "data.n_query": None,
        "data.tasks": 40,
        "sources.strategy": "all",
    },
    "5-shot, ten classes": {"data.tasks": 10},
}


@dataclass(frozen=True)
class Sight:
    """The information about one slot that a rule may use.

    `positions` (M,) of its levels on the axis to the mean of the target's support images. `nearest`
    (M,) on the axis to the support image that is nearest to the source. `held_out` (k,) are the
    positions of the target's real support images, each on the axis to the mean of the others (empty
    for a single image). `predicted` (M,) bool is whether the baseline predicts the target.
    """

    positions: np.ndarray
    nearest: np.ndarray
    held_out: np.ndarray
    predicted: np.ndarray


Rule = Callable[[Sight], int]
"""The level that a rule chooses, from 0."""


def fixed(level: int) -> Rule:
    """Choose the same level for every image."""
    return lambda sight: level


def reaches(good: np.ndarray, start: int) -> int:
    """Return the first level from `start` on that is good, or else the highest."""
    later = np.flatnonzero(good[start:])
    return start + int(later[0]) if len(later) else len(good) - 1


def at_least(bound: float) -> Rule:
    """Choose the first level from the largest shift on with a position of at least `bound`."""
    return lambda s: reaches(s.positions >= bound, largest_shift(s.positions))


def first_at(bound: float) -> Rule:
    """Choose the first level with a position of at least `bound`, without the largest shift."""
    return lambda s: reaches(s.positions >= bound, 0)


def like_real(share: float) -> Rule:
    """Choose like `at_least` a quantile of the positions of real images of the target.

    With one real image, there is no bound.
    """

    def rule(sight: Sight) -> int:
        start = largest_shift(sight.positions)
        if not len(sight.held_out):
            return start
        return reaches(sight.positions >= np.quantile(sight.held_out, share), start)

    return rule


RULES: dict[str, Rule] = {
    FIXED: fixed(3),
    "r = 0.9": fixed(4),
    PAPER: lambda s: largest_shift(s.positions),
    **{f"least {bound:g}": at_least(bound) for bound in BOUNDS},
    **{f"first at {bound:g}": first_at(bound) for bound in (0.6, 0.8, 1.0)},
    "least as the lowest real image": like_real(0),
    "least as a quarter of the real images": like_real(0.25),
    "least as the median real image": like_real(0.5),
    "axis to the nearest support image": lambda s: largest_shift(s.nearest),
    "axis to the nearest, least 0.8": lambda s: reaches(s.nearest >= 0.8, largest_shift(s.nearest)),
    "baseline calls it the target": lambda s: reaches(s.predicted, largest_shift(s.positions)),
}


def sight_of(levels: pd.DataFrame, z_source: np.ndarray, z_targets: np.ndarray) -> Sight:
    """Return the sight of a trajectory (rows of TRAJECTORIES by level), given real embeddings.

    `z_source` is (d,) and `z_targets` (k, d).
    """
    z = np.stack(list(levels["embedding"])).astype(float)
    nearest = z_targets[np.argmin(np.linalg.norm(z_targets - z_source, axis=1))]
    held_out = [
        axis_positions(z_target[None], z_source, np.delete(z_targets, i, 0).mean(0))[0]
        for i, z_target in enumerate(z_targets)
        if len(z_targets) > 1
    ]
    return Sight(
        positions=axis_positions(z, z_source, z_targets.mean(0)),
        nearest=axis_positions(z, z_source, nearest),
        held_out=np.array(held_out),
        predicted=levels["predicted_target"].to_numpy(bool),
    )


@dataclass(frozen=True)
class Trial:
    """A run whose images are rendered at all levels: its tasks, and real images with embeddings."""

    tasks: pd.DataFrame
    trajectories: pd.DataFrame
    support: Callable[[Sequence[str]], Examples]
    queries: Callable[[Sequence[str]], Examples]


def run_trial(changes: Mapping[str, object], place: Path, params_file: Path) -> Trial:
    """Run the stages with the exact search and read their outputs."""
    base = read_yaml(params_file)
    always = {
        "noise.r": "ada",
        "noise.search": "exact",
        "noise.min_position": None,
        "method": "genie",
    }
    params = check_params(override(base, {**always, **changes}), where=str(place))
    run_stages(Row(place.name, PAPER, params, place))
    backbone = load_backbone(params.classifier.backbone, cache=features_file(place))
    examples_of = {}
    for role in ("support", "query"):
        images = read_images(place / "data/prepared" / role)
        examples_of[role] = picker(load_examples(images, backbone=backbone), images["image_id"])
    return Trial(
        tasks=read_table(place / "data/prepared/tasks.csv", TASKS),
        trajectories=read_table(place / "data/augmented/trajectories.parquet", TRAJECTORIES),
        support=examples_of["support"],
        queries=examples_of["query"],
    )


def compare(setting: str, trial: Trial, consistent: Mapping[str, bool]) -> pd.DataFrame:
    """Return accuracy, label consistency and r of each rule in each task."""
    rows = []
    tasks = trial.tasks.groupby("task")
    for task, drawn in bar(tasks, setting, total=len(tasks)):
        support, queries = (
            give(drawn.loc[drawn["role"] == role, "image_id"])
            for role, give in (("support", trial.support), ("query", trial.queries))
        )
        own = trial.trajectories[trial.trajectories["task"] == task]
        pairs = [
            p.sort_values("level")
            for _, p in own.groupby(["target_label", "source_id", "replicate"])
        ]
        real = dict(
            zip(drawn.loc[drawn["role"] == "support", "image_id"], support.embeddings, strict=True)
        )
        sights = [_sight(pair, real, support) for pair in pairs]
        paper = [RULES[PAPER](sight) for sight in sights]
        for name, rule in RULES.items():
            levels = [rule(sight) for sight in sights]
            kept = [pair.iloc[level] for pair, level in zip(pairs, levels, strict=True)]
            rows.append(
                {
                    "setting": setting,
                    "rule": name,
                    "task": task,
                    "accuracy": accuracy(
                        np.stack([level.embedding for level in kept]),
                        [level.target_label for level in kept],
                        support,
                        queries,
                    ),
                    "label_consistency": np.mean([consistent[level.key] for level in kept]),
                    "mean_r": np.mean([level.r for level in kept]),
                    "moved": np.mean(np.array(levels) != np.array(paper)),
                }
            )
    return pd.DataFrame(rows)


def _sight(pair: pd.DataFrame, real: Mapping[str, np.ndarray], support: Examples) -> Sight:
    first = pair.iloc[0]
    targets = support.embeddings[np.array(support.labels) == first.target_label]
    return sight_of(pair, real[first.source_id], targets)


def accuracy(
    embeddings: np.ndarray, labels: Sequence[str], support: Examples, queries: Examples
) -> float:
    """Return the accuracy in [0, 1] of logistic regression on support and generated images.

    `embeddings` (n, d) and `labels` are those of the generated images.
    """
    blank = Image.new("RGB", (1, 1))  # heads see embeddings alone
    made = Examples([blank] * len(labels), embeddings, labels)
    model = fit(join(support, made), TrainingSettings())
    return float(np.mean(predict(model, queries) == np.array(queries.labels)))


def consistency(trajectories: pd.DataFrame, place: Path) -> dict[str, bool]:
    """Return whether the oracle predicts an image's label, by key."""
    store = DiskStore(store_folder(place))
    oracle = load_oracle(Path("zoo/oracle"), cache=features_file(place))
    once = trajectories.drop_duplicates("key")
    names = np.array(class_names(oracle))
    found: dict[str, bool] = {}
    for start in range(0, len(once), 1000):
        part = once.iloc[start : start + 1000]
        images = [store.image(key) for key in part["key"]]
        predicted = names[classify(images, model=oracle).argmax(1)]
        found |= dict(zip(part["key"], predicted == part["target_label"].to_numpy(), strict=True))
    return found


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per setting and rule: means over tasks, and differences paired by task."""
    rows = []
    for setting, own in scores.groupby("setting", sort=False):
        wide = own.pivot(index="task", columns="rule", values="accuracy")
        best = wide[[f"least {bound:g}" for bound in BOUNDS]].mean().idxmax()
        for rule, part in own.groupby("rule", sort=False):
            fixed_gap, paper_gap, best_gap = (
                interval(wide[rule] - wide[other]) for other in (FIXED, PAPER, best)
            )
            rows.append(
                {
                    "setting": setting,
                    "rule": rule,
                    **part[["accuracy", "label_consistency", "mean_r", "moved"]].mean().to_dict(),
                    "to_fixed": fixed_gap.mean,
                    "to_fixed_low": fixed_gap.low,
                    "to_fixed_high": fixed_gap.high,
                    "to_paper": paper_gap.mean,
                    "to_paper_low": paper_gap.low,
                    "to_paper_high": paper_gap.high,
                    "p_paper": paired_p(wide[rule], wide[PAPER]),
                    "to_best": best_gap.mean,
                    "to_best_low": best_gap.low,
                    "to_best_high": best_gap.high,
                    "n": len(part),
                }
            )
    return pd.DataFrame(rows).round(6)


@click.command(help=__doc__)
@click.option("--seed", "seeds", multiple=True, type=int, help="in place of those of SEEDS")
@click.option("--params", "params_file", type=Path, default="params.yaml", show_default=True)
@click.option("--place", type=Path, default=".genie/rules", show_default=True)
@click.option("--out", type=Path, default="benchmarks/rules.csv", show_default=True)
def main(seeds: tuple[int, ...], params_file: Path, place: Path, out: Path) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    scores = []
    for setting, changes in SETTINGS.items():
        for seed in seeds or SEEDS[setting]:
            here = place / f"{setting} {seed}".replace(" ", "-").replace(",", "")
            trial = run_trial({"data.path": POOL, "seed": seed, **changes}, here, params_file)
            known = consistency(trial.trajectories, here)
            table = compare(setting, trial, known)
            scores.append(table.assign(task=table["task"] + 1000 * seed))
    table = summary(pd.concat(scores))
    write_table(table, out, RULE_TABLE)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
