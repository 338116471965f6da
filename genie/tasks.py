"""Regimes: how tasks (support and query sets) are drawn from the two pools of images.

Support comes from the support pool and queries from the query pool, in every regime, so no image
is ever in both. Every draw is keyed by (seed, task, class): one more class or task changes no
other draw, and the first k of one permutation make the k-shot set, so that sets are nested.
"""

import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from genie.errors import GenieError
from genie.records import TASK_COLUMNS

Images = dict[str, list[str]]  # class -> sorted image_ids
Task = tuple[Images, Images]  # support, query

POOL, CLASSES, SUPPORT, QUERY = range(4)  # what a draw is for; part of its key


def make_tasks(
    support: pd.DataFrame,
    query: pd.DataFrame,
    *,
    regime: str,
    seed: int,
    shots: int = 5,
    tasks: int = 5,
    n_way: int = 5,
    n_shot: int = 1,
    n_query: int | None = 16,
    episodes: int = 600,
    imbalance: float | None = None,
    pool: int | None = None,
) -> pd.DataFrame:
    """Tasks table (task, role, image_id, label) of a regime, drawn from two images tables.

    all: one task with every image.
    shots: `tasks` support sets of `shots` images per class; all query images.
    longtail: `tasks` support sets whose class sizes fall exponentially from the largest class's
      by the factor `imbalance`; the same classes are rare in all of them. Without `imbalance` one
      task with the data's own sizes. All query images.
    episodes: `episodes` tasks of `n_way` classes, `n_shot` support and `n_query` (None: all) query
      images each; support is drawn from the first `pool` images per class (None: all).
    """
    _check_pools(support, query)
    if seed < 0:
        raise GenieError(f"seed must be 0 or more, got {seed}")
    pools = _by_class(support), _by_class(query)
    regimes: dict[str, Callable[[], Iterator[Task]]] = {
        "all": lambda: iter([pools]),
        "shots": lambda: _shots(*pools, seed=seed, shots=shots, tasks=tasks),
        "longtail": lambda: _longtail(*pools, seed=seed, imbalance=imbalance, tasks=tasks),
        "episodes": lambda: _episodes(
            *pools,
            seed=seed,
            episodes=episodes,
            n_way=n_way,
            n_shot=n_shot,
            n_query=n_query,
            pool=pool,
        ),
    }
    if regime not in regimes:
        raise GenieError(f"data.regime must be one of {', '.join(regimes)}, got {regime!r}")
    table = _table(regimes[regime]())
    assert leaks(table).empty, "support and query of a task share an image"
    return table


def leaks(tasks: pd.DataFrame) -> pd.DataFrame:
    """Rows (task, image_id) of a tasks table whose image is both support and query of the task."""
    roles = tasks[["task", "image_id", "role"]].drop_duplicates()
    both = roles.duplicated(["task", "image_id"])
    return roles.loc[both, ["task", "image_id"]].reset_index(drop=True)


def group_of(count: int) -> str:
    """Group of a class by its number of training images: many (> 100), medium, few (< 20)."""
    if count > 100:
        return "many"
    return "medium" if count >= 20 else "few"


def groups(counts: pd.Series) -> pd.Series:
    """Group per class, from the number of training images per class."""
    return counts.map(group_of).rename("group")


def _check_pools(support: pd.DataFrame, query: pd.DataFrame) -> None:
    if shared := set(support["image_id"]) & set(query["image_id"]):
        raise GenieError(
            f"{len(shared)} images are in both the support and the query pool; remove them from one"
        )
    if odd := sorted(set(support["label"]) ^ set(query["label"])):
        raise GenieError(f"class {odd[0]!r} must have both support and query images; add some")
    if len(classes := sorted(set(support["label"]))) < 2:
        raise GenieError(
            f"there must be at least two classes to tell apart, got only {', '.join(classes)}; "
            "add a folder per class"
        )


def _by_class(table: pd.DataFrame) -> Images:
    return {str(c): sorted(ids) for c, ids in table.groupby("label", sort=True)["image_id"]}


def _rng(seed: int, *key: int, label: str = "") -> np.random.Generator:
    return np.random.default_rng([seed, *key, zlib.crc32(label.encode())])


def _draw(images: Images, count: int, *key: int) -> Images:
    """The first `count` of a permutation of each class, keyed by `key` and the class name."""
    return {c: _permute(ids, *key, label=c)[:count] for c, ids in images.items()}


def _permute(ids: list[str], *key: int, label: str) -> list[str]:
    return [ids[i] for i in _rng(*key, label=label).permutation(len(ids))]


def _shots(support: Images, query: Images, *, seed: int, shots: int, tasks: int) -> Iterator[Task]:
    _check_positive("data.tasks", tasks)
    _check_enough("data.shots", shots, support, "support")
    for task in range(tasks):
        yield _draw(support, shots, seed, task, SUPPORT), query


def _longtail(
    support: Images, query: Images, *, seed: int, imbalance: float | None, tasks: int
) -> Iterator[Task]:
    if imbalance is None:
        yield support, query
        return
    if imbalance < 1:
        raise GenieError(f"data.imbalance must be 1 or more, or null, got {imbalance}")
    _check_positive("data.tasks", tasks)
    sizes = _longtail_sizes(support, seed=seed, imbalance=imbalance)
    for task in range(tasks):
        drawn = {c: _permute(ids, seed, task, SUPPORT, label=c) for c, ids in support.items()}
        yield {c: ids[: sizes[c]] for c, ids in drawn.items()}, query


def _longtail_sizes(support: Images, *, seed: int, imbalance: float) -> dict[str, int]:
    """n_i = n_max * imbalance^(-i / (C - 1)), at least 1 and at most what the class has.

    Classes in order of falling size, equal ones in an order drawn from the seed.
    """
    order = sorted(support, key=lambda c: (-len(support[c]), _class_key(c, seed)))
    largest, last = len(support[order[0]]), max(1, len(order) - 1)
    sizes = {c: round(largest * imbalance ** (-i / last)) for i, c in enumerate(order)}
    return {c: min(max(1, n), len(support[c])) for c, n in sizes.items()}


def _episodes(
    support: Images,
    query: Images,
    *,
    seed: int,
    episodes: int,
    n_way: int,
    n_shot: int,
    n_query: int | None,
    pool: int | None,
) -> Iterator[Task]:
    _check_positive("data.episodes", episodes)
    if not 2 <= n_way <= len(support):
        raise GenieError(
            f"data.n_way must be from 2 to the number of classes, {len(support)}, got {n_way}"
        )
    if pool is not None:
        _check_positive("data.pool", pool)
        support = _draw(support, pool, seed, POOL)
    _check_enough("data.n_shot", n_shot, support, "support")
    if n_query is not None:
        _check_enough("data.n_query", n_query, query, "query")
    for task in range(episodes):
        classes = sorted(sorted(support, key=lambda c: _class_key(c, seed, task))[:n_way])
        asked = {c: query[c] for c in classes}
        yield (
            _draw({c: support[c] for c in classes}, n_shot, seed, task, SUPPORT),
            asked if n_query is None else _draw(asked, n_query, seed, task, QUERY),
        )


def _class_key(label: str, *key: int) -> tuple[float, str]:
    """A random sort key per class, so that a new class only ever takes another's place."""
    return float(_rng(*key, CLASSES, label=label).random()), label


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise GenieError(f"{name} must be at least 1, got {value}")


def _check_enough(name: str, count: int, images: Images, role: str) -> None:
    _check_positive(name, count)
    label = min(images, key=lambda c: (len(images[c]), c))
    if count > len(images[label]):
        raise GenieError(
            f"{name} must be at most the number of {role} images of each class: class {label!r} "
            f"has {len(images[label])}, got {count}; lower it or add images"
        )


def _table(tasks: Iterator[Task]) -> pd.DataFrame:
    rows = [
        (task, role, image, label)
        for task, (support, query) in enumerate(tasks)
        for role, images in (("support", support), ("query", query))
        for label in sorted(images)
        for image in sorted(images[label])
    ]
    return pd.DataFrame(rows, columns=list(TASK_COLUMNS))
