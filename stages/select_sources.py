"""Choose and rank the source classes of each target.

Input: data/baseline/predictions.csv.
Outputs: data/sources/confusion.csv, data/sources/sources.csv.
"""

from pathlib import Path

import pandas as pd

from genie.classify.confusion import confusion, source_classes
from genie.keyed import support_identity, task_seed
from genie.tables import CONFUSION, PREDICTIONS, SOURCES, read_table, write_table

from .shared.command import stage
from .shared.params import Params


@stage
def main(params: Params, root: Path) -> str:
    """Choose and rank the source classes of each target."""
    predictions = read_table(root / "data/baseline/predictions.csv", PREDICTIONS)
    matrices, sources = [], []
    for task, rows in predictions.groupby("task"):
        matrix = confusion(rows)
        images = rows.drop_duplicates("image_id")
        identity = support_identity(images["label"], images["image_id"])
        ranked = source_classes(
            matrix,
            strategy=params.sources.strategy,
            top_k=params.sources.top_k,
            seed=task_seed(params.seed, identity, "sources"),
        )
        sources.append(ranked.assign(task=task))
        matrices.append(matrix.stack().rename("probability").reset_index().assign(task=task))
    folder = root / "data/sources"
    write_table(pd.concat(matrices), folder / "confusion.csv", CONFUSION)
    write_table(pd.concat(sources), folder / "sources.csv", SOURCES)
    return f"select_sources: {sum(map(len, sources))} target-source pairs in data/sources"


if __name__ == "__main__":
    main()
