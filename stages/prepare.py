"""Read the images, split off the query images, and draw the tasks.

Input: data.path.
Outputs: data/prepared/support/images.parquet and data/prepared/query/images.parquet, which contain
only images that a task uses, data/prepared/tasks.csv, data/prepared/skipped.csv, and
data/prepared/LICENSE.txt, which says so where data.path has no licence.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from genie.data.licence import licence_text
from genie.data.near_duplicates import drop_near_duplicates, split_queries
from genie.data.readers import Raw, read_pools
from genie.data.tasks import make_tasks
from genie.tables import SKIPPED, TASKS, empty, write_images, write_table

from .shared.command import stage
from .shared.params import Params
from .shared.progress import bar

log = logging.getLogger("genie")


@stage
def main(params: Params, root: Path) -> str:
    """Read the images, split off the query images, and draw the tasks."""
    data = params.data
    skipped = [empty(SKIPPED)]
    broken = skipped.append if data.broken == "skip" else None
    support, query = read_pools(data.path, size=data.size, broken=broken, wrap=_progress)
    if query is None:
        support, query = split_queries(
            support, fraction=data.query_fraction, seed=params.seed, wrap=_search
        )
    else:
        support = _without_near_queries(support, query)
    tasks = make_tasks(
        support,
        query,
        regime=data.regime,
        seed=params.seed,
        tasks=data.tasks,
        shots=data.shots,
        imbalance=data.imbalance,
        n_way=data.n_way,
        n_query=data.n_query,
        pool=data.pool,
    )
    folder = root / "data" / "prepared"
    support, query = _used(support, tasks), _used(query, tasks)
    write_images(support, folder / "support")
    write_images(query, folder / "query")
    write_table(tasks, folder / "tasks.csv", TASKS)
    write_skipped(pd.concat(skipped), folder / "skipped.csv")
    (folder / "LICENSE.txt").write_text(
        licence_text(data.path) or "not stated with the data", encoding="utf-8"
    )
    return (
        f"prepare: {tasks['task'].nunique()} tasks of {tasks['label'].nunique()} classes: "
        f"{len(support)} support and {len(query)} query images in {folder}"
    )


def write_skipped(skipped: pd.DataFrame, path: Path) -> None:
    """Write the list of images that cannot be read, and warn of them."""
    write_table(skipped, path, SKIPPED)
    if len(skipped):
        log.warning(
            "skipped %d images that cannot be read, the first is %s (%s); %s lists them",
            *(len(skipped), skipped["file"].iloc[0], skipped["reason"].iloc[0], path),
        )


def _progress(raws: list[Raw]) -> Iterable[Raw]:
    return bar(raws, total=len(raws), label="reading images")


def _search(classes: list[Any]) -> Iterable[Any]:
    return bar(classes, total=len(classes), label="looking for near-duplicates")


def _without_near_queries(support: pd.DataFrame, query: pd.DataFrame) -> pd.DataFrame:
    """Leave out support images that nearly equal a query image; all query images stay."""
    kept = drop_near_duplicates(support, query, wrap=_search)
    if dropped := len(support) - len(kept):
        log.warning(
            "%d images to draw support sets from nearly equal a query image of their class and are "
            "left out, so that no task is tested on what it was trained on",
            dropped,
        )
    return kept


def _used(images: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    return images[images["image_id"].isin(tasks["image_id"])].reset_index(drop=True)


if __name__ == "__main__":
    main()
