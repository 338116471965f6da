"""The support and query pools of a data set, which share no images and no near-duplicates."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from genie.core.progress import Progress
from genie.core.tables import SKIPPED, empty
from genie.data.folders import linked_folders
from genie.data.images import Crop
from genie.data.near_duplicates import drop_near_duplicates, repeated_splits
from genie.data.readers import read_pools
from genie.data.tasks import Draws, few_queries_warning, make_tasks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pools:
    """Support and query images (columns of IMAGES), and skipped files (columns of SKIPPED).

    `others` contains further splits (support, query) of the same images. `depth` is the number of
    bits per sample in images with more than 8 bits (see `genie.data.depth`), or None.
    """

    support: pd.DataFrame
    query: pd.DataFrame
    skipped: pd.DataFrame
    others: Sequence[tuple[pd.DataFrame, pd.DataFrame]] = ()
    depth: int | None = None

    def tasks(self, draws: Draws) -> pd.DataFrame:
        """Draw the tasks of a regime (`make_tasks`); if there are several splits, each is one task.

        Warn if a class has few query images.
        """
        first = make_tasks(self.support, self.query, draws)
        others = [make_tasks(*split, draws) for split in self.others]
        numbered = [table.assign(task=number) for number, table in enumerate(others, start=1)]
        tasks = pd.concat([first, *numbered], ignore_index=True)
        if warning := few_queries_warning(tasks):
            log.warning(warning)
        return tasks

    def used_by(self, tasks: pd.DataFrame) -> "Pools":
        """Return the pools with only the images that tasks use as support or query images."""
        images = pd.concat([self.support, self.query])
        support, query = (
            images[images["image_id"].isin(tasks.loc[tasks["role"] == role, "image_id"])]
            for role in ("support", "query")
        )
        return replace(
            self, support=support.reset_index(drop=True), query=query.reset_index(drop=True)
        )

    def summary(self, tasks: pd.DataFrame) -> str:
        """Return a one-line summary with the numbers of tasks, classes and images."""
        return (
            f"{tasks['task'].nunique()} tasks of {tasks['label'].nunique()} classes: "
            f"{len(self.support)} support and {len(self.query)} query images"
        )


@dataclass(frozen=True)
class Splitting:
    """How query images are split off if there is no test split.

    `fraction` of each class's images become query images (see `repeated_splits`). `splits` is the
    number of splits; it does not change the first split.
    """

    fraction: float
    seed: int
    splits: int = 1


def read_and_split(
    path: Path,
    *,
    size: int | None,
    crop: Crop = "centre",
    skip_broken: bool,
    splitting: Splitting,
    progress: Progress,
) -> Pools:
    """Read the images at `path`, and split off query images if there is no test split.

    See `read_pools` for `size`, `crop` and the errors. Support images that are near-duplicates of
    images in a given test split are dropped. With `skip_broken`, images that cannot be read are
    skipped with a warning.
    """
    splits = splitting.splits
    if path.is_dir() and (links := linked_folders(path)):
        log.warning(
            "%s: DVC does not follow %d links to folders, the first is %s; copy the folders, or "
            "run `dvc repro --force prepare` after changes in them",
            path,
            len(links),
            links[0],
        )
    skipped = [empty(SKIPPED)]
    broken = skipped.append if skip_broken else None
    depths: list[int] = []
    support, query = read_pools(
        path, size=size, crop=crop, broken=broken, deep=depths.append, progress=progress
    )
    if query is None:
        if splits > 1:
            log.info("%d splits: each later stage takes %d times as long", splits, splits)
        (support, query), *others = repeated_splits(
            support,
            splits,
            fraction=splitting.fraction,
            seed=splitting.seed,
            progress=progress,
        )
    else:
        support, others = _without_near_queries(support, query, progress), []
        if splits > 1:
            log.warning(
                "`tasks` is %d, but the data have a test split, so there is one task: train and "
                "test",
                splits,
            )
    left_out = pd.concat(skipped)
    if len(left_out):
        log.warning(
            "skipped %d images that cannot be read, the first is %s (%s); skipped.csv lists them",
            len(left_out),
            left_out["file"].iloc[0],
            left_out["reason"].iloc[0],
        )
    return Pools(support, query, left_out, others, depth=max(depths, default=None))


def _without_near_queries(
    support: pd.DataFrame, query: pd.DataFrame, progress: Progress
) -> pd.DataFrame:
    kept = drop_near_duplicates(support, query, progress=progress)
    if dropped := len(support) - len(kept):
        log.warning(
            "dropped %d support candidates that nearly duplicate query images of their class",
            dropped,
        )
    return kept
