"""The input to a method: a task's support images, source classes and settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from genie.core.seeding import identity
from genie.data.prompts import Prompts


@dataclass(frozen=True)
class TaskSpec:
    """The input to a method for one task.

    - `support`: the task's support images (columns image_id, label)
    - `sources`: the ranked source classes of each target (columns target, source, rank)
    - `per_class`: the number of images per target
    - `ratios`: the noise ratios
    - `prompts`: the components from which an image's prompts are made
    - `every_source`: whether each support image of the source classes is used exactly once, instead
      of in rotation
    - `number`: the task's number, for error messages
    """

    support: pd.DataFrame
    sources: pd.DataFrame
    per_class: Mapping[str, int]
    ratios: Sequence[float]
    prompts: Prompts
    seed: int
    every_source: bool = False
    number: int = 0

    @cached_property
    def images(self) -> dict[str, list[str]]:
        """The distinct image ids of each class, sorted."""
        by_class = self.support.groupby("label")["image_id"]
        return {str(label): sorted(set(ids)) for label, ids in by_class}

    @cached_property
    def support_ids(self) -> dict[str, str]:
        """The hash of each class's support images, which is part of the key of the noise."""
        return {label: identity(ids) for label, ids in self.images.items()}

    def sources_of(self, target: str) -> list[str]:
        """Return the target's source classes in order of rank."""
        rows = self.sources[self.sources["target"] == target]
        return list(rows.sort_values("rank")["source"])
