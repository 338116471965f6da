"""Run the rows of a table through the stages.

The rows of a setting share a folder. There, `prepare` and `train_baseline` run only if their
dependencies, recorded in `upstream.json`, have changed. All rows share one image store.
"""

import json
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from genie.classify.backbone import load_backbone
from genie.classify.classifier import predict
from genie.classify.examples import load_examples, picker
from genie.classify.files import load_classifiers
from genie.cli.places import features_file
from genie.core.seeding import fingerprint
from genie.core.tables import SCORES as STAGE_SCORES
from genie.core.tables import TASKS, read_images, read_table
from genie.data.prompts import slug
from protocols.record import SCORES, content, made_from
from protocols.specification import BASELINE, Row
from stages import evaluate, generate, prepare, retrain, select_sources, train_baseline

UPSTREAM = ("seed", "data", "augment", "prompt", "classifier")
"""Sections of params.yaml that `prepare` and `train_baseline` read."""

CODE = ("genie", "stages")
"""Packages whose code decides results."""

NAMES = {"augmented": None, "baseline": BASELINE}
"""The models of a run, and the row for each; None stands for the row that is run."""


def run_row(row: Row) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run a row; return the scores of the row and its baseline by task, and facts about the row.

    The scores have the columns `record.SCORES` and one per group of query images. The facts have
    the keys `record.FACTS` without the setting and the row.
    """
    begun, digest = time.perf_counter(), made_from(row)
    run_stages(row)
    scores = read_table(row.place / "metrics/tasks.csv", STAGE_SCORES)
    if row.groups:
        scores = scores.merge(group_accuracies(row, row.groups), on=["task", "model"])
    scores["row"] = scores["model"].map(NAMES).fillna(row.name)
    scores = scores.assign(setting=row.setting)
    groups = [name for name in scores.columns if name not in {*STAGE_SCORES, *SCORES}]
    summary = json.loads((row.place / "metrics/evaluate.json").read_text())
    cost = json.loads((row.place / "metrics/cost.json").read_text())
    return scores[[*SCORES, *groups]], {
        "made_from": digest,
        **{name: summary[name] for name in ("label_consistency", "mean_r", "images")},
        "guided_steps": cost["guided_steps_needed"],
        "rejected": cost["rejected"],
        "shared": shared_support(read_table(row.place / "data/prepared/tasks.csv", TASKS)),
        "seconds": round(time.perf_counter() - begun, 1),
        "commit": commit(),
        "machine": machine(),
    }


def run_stages(row: Row) -> None:
    """Run the stages in the row's folder; skip the first two if nothing they read changed."""
    row.place.mkdir(parents=True, exist_ok=True)
    file = row.place / "params.yaml"
    file.write_text(yaml.safe_dump(row.params.model_dump(mode="json"), sort_keys=False))
    arguments = ["--params", str(file), "--root", str(row.place)]
    done, upstream = row.place / "upstream.json", upstream_of(row)
    if not done.is_file() or done.read_text() != upstream:
        done.unlink(missing_ok=True)
        for stage in (prepare, train_baseline):
            stage.main.main(arguments, standalone_mode=False)
        done.write_text(upstream)
    shutil.rmtree(row.place / "data/augmented", ignore_errors=True)
    for stage in (select_sources, generate, retrain, evaluate):
        stage.main.main(arguments, standalone_mode=False)
    _note_images(row)


def upstream_of(row: Row) -> str:
    """Return, as JSON, the dependencies of `prepare` and `train_baseline`."""
    given, backbone = row.params, row.params.classifier.backbone
    depends_on = {
        "params": given.model_dump(mode="json", include=set(UPSTREAM)),
        # decides how many copies there are
        "every_source": given.sources.strategy == "all",
        "files": [content(path) for path in (given.data.path, backbone, given.prompt.names)],
        "code": fingerprint(Path(), (p for name in CODE for p in Path(name).rglob("*.py"))),
    }
    return json.dumps(depends_on, sort_keys=True)


def group_accuracies(row: Row, groups: Path) -> pd.DataFrame:
    """Return the accuracy, in [0, 1], of both models on groups of query images in each task.

    `groups` is a CSV file with the column image_id and columns of group names. The result has the
    columns task, model, and one per group name.
    """
    images = read_images(row.place / "data/prepared/query")
    backbone = load_backbone(row.params.classifier.backbone, cache=features_file(row.place))
    queries_of = picker(load_examples(images, backbone=backbone), images["image_id"])
    tasks = read_table(row.place / "data/prepared/tasks.csv", TASKS)
    member = pd.read_csv(groups).melt("image_id", value_name="group")[["image_id", "group"]]
    parts = []
    for model in NAMES:
        for task, classifier in load_classifiers(row.place / "models" / model).items():
            asked = (tasks["task"] == task) & (tasks["role"] == "query")
            queries = queries_of(tasks.loc[asked, "image_id"])
            right = predict(classifier, queries) == np.array(queries.labels)
            own = pd.DataFrame({"image_id": tasks.loc[asked, "image_id"], "right": right})
            means = own.merge(member, on="image_id").groupby("group")["right"].mean().round(6)
            parts.append({"task": task, "model": model, **means})
    return pd.DataFrame(parts)


def shared_support(tasks: pd.DataFrame) -> float:
    """Return the mean share of support images that two tasks have in common.

    `tasks` has the schema TASKS. With one task, the share is 0.
    """
    support = tasks[tasks["role"] == "support"]
    others = support["task"].nunique() - 1
    if not others:
        return 0.0
    sharing = support.groupby(["label", "image_id"])["task"].transform("size") - 1
    return round(float((sharing / others).groupby(support["task"]).mean().mean()), 6)


def commit() -> str:
    """Return the commit of the code, with `+` if genie/ or stages/ differ from it."""
    changed = _git("status", "--porcelain", "--", *CODE)
    return _git("rev-parse", "--short=9", "HEAD") + ("+" if changed else "")


def machine() -> str:
    """Return the device and the number of threads, on which a row's seconds depend."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' if threads > 1 else ''}"


def _git(*arguments: str) -> str:
    """Return the output of a Git command, which is empty outside a repository."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _note_images(row: Row) -> None:
    """Record which images of the store the row refers to, so that `genie gc` keeps them."""
    table = pd.read_parquet(row.place / "data/augmented/trajectories.parquet", columns=["key"])
    path = row.place / "keys" / f"{slug(row.name)}.parquet"
    path.parent.mkdir(exist_ok=True)
    table.drop_duplicates().to_parquet(path, index=False)
