"""Rules that choose r* from the positions of the levels, compared on images that no task uses.

    python -m benchmarks.rules

The pipeline runs on the support pool alone (`data/bundled/train`): `prepare` splits its images into
support and queries of the trial, so no query image of the published tables is seen. Every wanted
image is rendered at all levels once. Each rule then chooses among these, a classifier is trained on
support and chosen images, and accuracy is compared with that of r = 0.8, paired by task.
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

from genie.classify.backbone import class_names, classify, load_backbone, load_oracle
from genie.classify.classifier import fit, predict
from genie.classify.examples import Examples, join, load_examples, picker
from genie.classify.finetune import TrainingSettings
from genie.data.images import decode_image
from genie.generate.adaptive import axis_positions, largest_shift
from genie.generate.store import store_path
from genie.measure.metrics import interval, paired_p
from genie.tables import TASKS, TRAJECTORIES, Schema, read_images, read_table, write_table
from protocols.execution import run_stages
from protocols.specification import Run, override
from stages.shared.params import check_params, read_yaml
from stages.shared.places import features_file, store_folder
from stages.shared.progress import bar

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
    """What a rule may see of one wanted image.

    `positions` (M,) of its levels on the axis to the mean of the target's support images. `nearest`
    (M,) on the axis to the support image that is nearest to the source. `held_out` (k,) are the
    positions of the target's real support images, each on the axis to the mean of the others (empty
    for a single image). `called` (M,) says whether the baseline predicts the target.
    """

    positions: np.ndarray
    nearest: np.ndarray
    held_out: np.ndarray
    called: np.ndarray


Rule = Callable[[Sight], int]
"""The level that a rule chooses, from 0."""


def fixed(level: int) -> Rule:
    """The same level for every image."""
    return lambda sight: level


def reaches(good: np.ndarray, start: int) -> int:
    """The first level from `start` on that is good, or else the highest."""
    later = np.flatnonzero(good[start:])
    return start + int(later[0]) if len(later) else len(good) - 1


def at_least(bound: float) -> Rule:
    """The first level from the largest shift on that stands at `bound` or beyond."""
    return lambda s: reaches(s.positions >= bound, largest_shift(s.positions))


def first_at(bound: float) -> Rule:
    """The first level that stands at `bound` or beyond, wherever the largest shift is."""
    return lambda s: reaches(s.positions >= bound, 0)


def like_real(share: float) -> Rule:
    """The bound is a quantile of where real images of the target stand; null for one image."""

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
    "baseline calls it the target": lambda s: reaches(s.called, largest_shift(s.positions)),
}


def sight_of(levels: pd.DataFrame, z_source: np.ndarray, z_targets: np.ndarray) -> Sight:
    """What rules see of a trajectory (rows of TRAJECTORIES by level), given real embeddings.

    `z_source` is (d,) and `z_targets` (k, d).
    """
    z = np.stack(list(levels["embedding"])).astype(float)
    nearest = z_targets[np.argmin(np.linalg.norm(z_targets - z_source, axis=1))]
    held_out = [
        axis_positions(one[None], z_source, np.delete(z_targets, i, 0).mean(0))[0]
        for i, one in enumerate(z_targets)
        if len(z_targets) > 1
    ]
    return Sight(
        positions=axis_positions(z, z_source, z_targets.mean(0)),
        nearest=axis_positions(z, z_source, nearest),
        held_out=np.array(held_out),
        called=levels["called_target"].to_numpy(bool),
    )


@dataclass(frozen=True)
class Trial:
    """A run whose images are rendered at all levels: its tasks, and real images with embeddings."""

    tasks: pd.DataFrame
    trajectories: pd.DataFrame
    support: Callable[[Sequence[str]], Examples]
    queries: Callable[[Sequence[str]], Examples]


def run_trial(changes: Mapping[str, object], place: Path, params_file: Path) -> Trial:
    """Run the stages with the exact search and read what they made."""
    base = read_yaml(params_file)
    always = {"noise.r": "ada", "noise.search": "exact", "noise.least": None, "method": "genie"}
    params = check_params(override(base, {**always, **changes}), where=str(place))
    run_stages(Run(place.name, PAPER, params, place))
    backbone = load_backbone(params.classifier.backbone, cache=features_file(place))
    pickers = []
    for role in ("support", "query"):
        images = read_images(place / "data/prepared" / role)
        pickers.append(picker(load_examples(images, backbone=backbone), images["image_id"]))
    return Trial(
        read_table(place / "data/prepared/tasks.csv", TASKS),
        read_table(place / "data/augmented/trajectories.parquet", TRAJECTORIES),
        *pickers,
    )


def compare(setting: str, trial: Trial, consistent: Mapping[str, bool]) -> pd.DataFrame:
    """Accuracy, label consistency and r of each rule in each task, with the columns of a score."""
    rows = []
    tasks = trial.tasks.groupby("task")
    for task, drawn in bar(tasks, total=len(tasks), label=setting):
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
                        np.stack([one.embedding for one in kept]),
                        [one.target_label for one in kept],
                        support,
                        queries,
                    ),
                    "label_consistency": np.mean([consistent[one.key] for one in kept]),
                    "mean_r": np.mean([one.r for one in kept]),
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
    """Accuracy in [0, 1] of logistic regression on support and generated images (n, d)."""
    blank = Image.new("RGB", (1, 1))  # heads see embeddings alone
    made = Examples([blank] * len(labels), embeddings, labels)
    settings = TrainingSettings(Path(), "backbone", 1, 2, 0.1, "cross-entropy", 0, None)
    model = fit("logistic", join(support, made), settings=settings)
    return float(np.mean(predict(model, queries) == np.array(queries.labels)))


def consistency(trajectories: pd.DataFrame, place: Path) -> dict[str, bool]:
    """Whether the oracle calls an image by its label, by key."""
    oracle = load_oracle(Path("zoo/oracle"), cache=features_file(place))
    once = trajectories.drop_duplicates("key")
    names = np.array(class_names(oracle))
    found: dict[str, bool] = {}
    for start in range(0, len(once), 1000):
        part = once.iloc[start : start + 1000]
        images = [
            decode_image(store_path(store_folder(place), k).read_bytes()) for k in part["key"]
        ]
        called = names[classify(images, model=oracle).argmax(1)]
        found |= dict(zip(part["key"], called == part["target_label"].to_numpy(), strict=True))
    return found


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per setting and rule: means over tasks, and differences paired by task."""
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
