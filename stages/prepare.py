"""Read the images, set the queries apart, draw the tasks.

In: data.path. Out: data/prepared/support/images.parquet, data/prepared/query/images.parquet (only
images that a task uses), data/prepared/tasks.csv.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from genie.images import Raw, read_pools, split_queries
from genie.records import TASK_COLUMNS, write_images, write_table
from genie.tasks import make_tasks
from stages.common import bar, stage
from stages.params import Params


@stage
def main(params: Params, root: Path) -> str:
    """Read the images, set the queries apart, draw the tasks."""
    data = params.data
    support, query = read_pools(Path(data.path), size=data.size, wrap=_progress)
    if query is None:
        support, query = split_queries(support, fraction=data.query_fraction, seed=params.seed)
    tasks = make_tasks(
        support,
        query,
        regime=data.regime,
        seed=params.seed,
        shots=data.shots,
        tasks=data.tasks,
        n_way=data.n_way,
        n_shot=data.n_shot,
        n_query=data.n_query,
        episodes=data.episodes,
        imbalance=data.imbalance,
        pool=data.pool,
    )
    folder = root / "data" / "prepared"
    support, query = _used(support, tasks), _used(query, tasks)
    write_images(support, folder / "support")
    write_images(query, folder / "query")
    write_table(tasks, folder / "tasks.csv", columns=TASK_COLUMNS)
    return (
        f"prepare: {tasks['task'].nunique()} tasks of {tasks['label'].nunique()} classes: "
        f"{len(support)} support and {len(query)} query images in {folder}"
    )


def _progress(raws: list[Raw]) -> Iterable[Raw]:
    return bar(raws, total=len(raws), label="reading images")


def _used(images: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    return images[images["image_id"].isin(tasks["image_id"])].reset_index(drop=True)


if __name__ == "__main__":
    main()
