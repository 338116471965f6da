"""Regimes, which define how tasks (support and query sets) are drawn from two pools of images.

In every regime, support images come from the support pool and query images from the query pool, so
no image is in both sets. Every draw is keyed by (seed, task, class), so adding a class or task
changes no other draw. A k-shot support set contains the first k images of a fixed permutation, so
smaller support sets are subsets of larger ones.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from genie.core.errors import InvalidValueError, require_choice
from genie.core.seeding import digest, numbered_rng
from genie.core.tables import TASKS

Images = dict[str, list[str]]  # class -> sorted image_ids
Task = tuple[Images, Images]  # support, query

POOL, CLASSES, SUPPORT, QUERY = range(4)  # the purpose of a draw; part of its key

FEW_QUERIES = 30
"""With fewer query images than this, the accuracy of a class is uncertain by 18 points or more."""


@dataclass(frozen=True)
class Draws:
    """Settings for drawing tasks from a support pool and a query pool.

    The regimes are:

    all: one task with every image. `splits` is the number of times that images without a test split
      are divided into support and query images; each split is a task.
    shots: `tasks` support sets of `shots` images per class, each with all query images.
    longtail: `tasks` support sets, each with all query images. Class sizes decrease exponentially
      from the size of the largest class to 1/`imbalance` of this size. The same classes are rare in
      every task. Without `imbalance`, there is one task with all support images.
    episodes: `tasks` tasks with `n_way` classes each, and `shots` support images and `n_query`
      query images per class. Support images come from the first `pool` images of a class. If
      `n_query` or `pool` is None, all images are used.
    """

    regime: str
    seed: int
    shots: int = 5
    tasks: int = 5
    imbalance: float | None = None
    n_way: int = 5
    n_query: int | None = 16
    pool: int | None = None

    @property
    def splits(self) -> int:
        """The number of splits of the images into support and query pools."""
        return self.tasks if self.regime == "all" else 1


Regime = Callable[[Images, Images, Draws], Iterator[Task]]
"""A function that maps the support pool, the query pool and the settings to tasks."""


def make_tasks(support: pd.DataFrame, query: pd.DataFrame, draws: Draws) -> pd.DataFrame:
    """Draw the tasks of a regime from a table of support images and a table of query images.

    Return a table with the columns task, role, image_id and label. Raise InvalidValueError if the
    pools share images, lack classes, or are too small.
    """
    _check_pools(support, query)
    if draws.seed < 0:
        raise InvalidValueError("must be 0 or more", argument="seed", value=draws.seed)
    require_choice("regime", draws.regime, REGIMES)
    table = _table(REGIMES[draws.regime](_by_class(support), _by_class(query), draws))
    assert leaks(table).empty, "support and query of a task share an image"
    return table


def leaks(tasks: pd.DataFrame) -> pd.DataFrame:
    """Return the rows (task, image_id) of images that are in both the support and query set."""
    roles = tasks[["task", "image_id", "role"]].drop_duplicates()
    both = roles.duplicated(["task", "image_id"])
    return roles.loc[both, ["task", "image_id"]].reset_index(drop=True)


def task_ids(tasks: pd.DataFrame) -> dict[int, str]:
    """Return the id of each task: 16 hex digits of a hash of its support and query rows.

    Tasks with equal support and query sets have the same id, regardless of their task numbers, so
    their accuracies can be paired.
    """
    columns = ["role", "label", "image_id"]
    return {
        int(task): digest(json.dumps(sorted(rows[columns].values.tolist()))).hex()[:16]
        for task, rows in tasks.groupby("task")
    }


def queries_per_class(tasks: pd.DataFrame) -> pd.Series:
    """Return the number of distinct query images per class over all tasks."""
    queries = tasks[tasks["role"] == "query"]
    return queries.groupby("label")["image_id"].nunique()


def few_queries_warning(tasks: pd.DataFrame) -> str | None:
    """Return a warning if a class has fewer than FEW_QUERIES query images, else None."""
    counts = queries_per_class(tasks)
    few = counts[counts < FEW_QUERIES]
    if few.empty:
        return None
    return (
        f"{len(few)} of {len(counts)} classes have fewer than {FEW_QUERIES} query images (class "
        f"{few.idxmin()!r} has {few.min()}), so the accuracy of such a class may be wrong by 18 "
        "points or more"
    )


def shot_group(count: int) -> str:
    """Return a class's group by its number of training images: many (> 100), medium, few (< 20)."""
    if count > 100:
        return "many"
    return "medium" if count >= 20 else "few"


def shot_groups(counts: pd.Series) -> pd.Series:
    """Return the group of each class, given its number of training images."""
    return counts.map(shot_group).rename("group")


def generated_per_class(
    labels: Sequence[str], *, per_class: int, classes: str, every_source: bool
) -> dict[str, int]:
    """Return the number of images that every method adds to each class of a task.

    `labels` contains the label of each support image of the task. `classes` is "all", or "few" to
    leave out classes with 20 or more support images. With `every_source` (strategy "all"), a class
    gets one image per support image of all other classes, and `per_class` is ignored.
    """
    counts = pd.Series(list(labels)).value_counts().sort_index()
    group = shot_groups(counts)
    kept = [str(c) for c in counts.index if classes == "all" or group[c] == "few"]
    return {c: int(counts.sum() - counts[c]) if every_source else per_class for c in kept}


def _check_pools(support: pd.DataFrame, query: pd.DataFrame) -> None:
    if shared := set(support["image_id"]) & set(query["image_id"]):
        raise InvalidValueError(
            f"{len(shared)} images are in both the support and the query pool",
            remedy="remove them from one",
        )
    if odd := sorted(set(support["label"]) ^ set(query["label"])):
        raise InvalidValueError(
            f"class {odd[0]!r} must have both support and query images", remedy="add some"
        )
    if len(classes := sorted(set(support["label"]))) < 2:
        raise InvalidValueError(
            f"there must be at least two classes to distinguish, got only {', '.join(classes)}",
            remedy="add a folder per class",
        )


def _by_class(table: pd.DataFrame) -> Images:
    return {str(c): sorted(ids) for c, ids in table.groupby("label", sort=True)["image_id"]}


def _draw(images: Images, count: int, *key: int) -> Images:
    """Return the first `count` images per class in a permutation keyed by `key` and class name."""
    return {c: _permute(ids, *key, label=c)[:count] for c, ids in images.items()}


def _permute(ids: list[str], *key: int, label: str) -> list[str]:
    return [ids[i] for i in numbered_rng(*key, label=label).permutation(len(ids))]


def _all(support: Images, query: Images, draws: Draws) -> Iterator[Task]:
    yield support, query


def _shots(support: Images, query: Images, draws: Draws) -> Iterator[Task]:
    _check_positive("tasks", draws.tasks)
    _check_enough("shots", draws.shots, support, "support")
    for task in range(draws.tasks):
        yield _draw(support, draws.shots, draws.seed, task, SUPPORT), query


def _longtail(support: Images, query: Images, draws: Draws) -> Iterator[Task]:
    if draws.imbalance is None:
        yield support, query
        return
    if draws.imbalance < 1:
        raise InvalidValueError(
            "must be 1 or more, or None", argument="imbalance", value=draws.imbalance
        )
    _check_positive("tasks", draws.tasks)
    sizes = _longtail_sizes(support, seed=draws.seed, imbalance=draws.imbalance)
    for task in range(draws.tasks):
        drawn = {c: _permute(ids, draws.seed, task, SUPPORT, label=c) for c, ids in support.items()}
        yield {c: ids[: sizes[c]] for c, ids in drawn.items()}, query


def _longtail_sizes(support: Images, *, seed: int, imbalance: float) -> dict[str, int]:
    """Return class sizes n_i = n_max * imbalance^(-i / (C - 1)), at least 1.

    No class gets more images than it has. Classes i = 0, ..., C - 1 are ordered by decreasing size;
    the seed decides the order of classes of equal size.
    """
    order = sorted(support, key=lambda c: (-len(support[c]), _class_key(c, seed)))
    largest, last = len(support[order[0]]), max(1, len(order) - 1)
    sizes = {c: round(largest * imbalance ** (-i / last)) for i, c in enumerate(order)}
    return {c: min(max(1, n), len(support[c])) for c, n in sizes.items()}


def _episodes(support: Images, query: Images, draws: Draws) -> Iterator[Task]:
    _check_positive("tasks", draws.tasks)
    seed, shots, n_way, n_query = draws.seed, draws.shots, draws.n_way, draws.n_query
    if not 2 <= n_way <= len(support):
        raise InvalidValueError(
            f"must be from 2 to the number of classes, {len(support)}",
            argument="n_way",
            value=n_way,
        )
    if draws.pool is not None:
        _check_positive("pool", draws.pool)
        support = _draw(support, draws.pool, seed, POOL)
    _check_enough("shots", shots, support, "support")
    if n_query is not None:
        _check_enough("n_query", n_query, query, "query")
    for task in range(draws.tasks):
        classes = sorted(sorted(support, key=lambda c: _class_key(c, seed, task))[:n_way])
        queries = {c: query[c] for c in classes}
        yield (
            _draw({c: support[c] for c in classes}, shots, seed, task, SUPPORT),
            queries if n_query is None else _draw(queries, n_query, seed, task, QUERY),
        )


def _class_key(label: str, *key: int) -> tuple[float, str]:
    """Return a random sort key for a class, so that a new class displaces at most one other."""
    return float(numbered_rng(*key, CLASSES, label=label).random()), label


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise InvalidValueError("must be at least 1", argument=name, value=value)


def _check_enough(name: str, count: int, images: Images, role: str) -> None:
    _check_positive(name, count)
    label = min(images, key=lambda c: (len(images[c]), c))
    if count > len(images[label]):
        raise InvalidValueError(
            f"must be at most the number of {role} images of each class: class {label!r} has "
            f"{len(images[label])}",
            argument=name,
            value=count,
            remedy="lower it or add images",
        )


def _table(tasks: Iterator[Task]) -> pd.DataFrame:
    rows = [
        (task, role, image, label)
        for task, (support, query) in enumerate(tasks)
        for role, images in (("support", support), ("query", query))
        for label in sorted(images)
        for image in sorted(images[label])
    ]
    return pd.DataFrame(rows, columns=list(TASKS))


REGIMES: dict[str, Regime] = {
    "all": _all,
    "shots": _shots,
    "longtail": _longtail,
    "episodes": _episodes,
}
