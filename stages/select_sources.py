"""Rank the classes that each target is taken for.

In: data/baseline/predictions.csv. Out: data/sources/confusion.csv, data/sources/sources.csv.
"""

from pathlib import Path

import pandas as pd

from genie.confusion import confusion, source_classes
from genie.records import (
    CONFUSION_COLUMNS,
    PREDICTION_COLUMNS,
    SOURCE_COLUMNS,
    read_table,
    write_table,
)
from stages.common import stage
from stages.params import Params


@stage
def main(params: Params, root: Path) -> str:
    """Rank the classes that each target is taken for."""
    predictions = read_table(root / "data/baseline/predictions.csv", columns=PREDICTION_COLUMNS)
    matrices, sources = [], []
    for task, rows in predictions.groupby("task"):
        matrix = confusion(rows)
        ranked = source_classes(
            matrix,
            strategy=params.sources.strategy,
            top_k=params.sources.top_k,
            seed=params.seed,
        )
        sources.append(ranked.assign(task=task))
        matrices.append(matrix.stack().rename("probability").reset_index().assign(task=task))
    folder = root / "data/sources"
    write_table(pd.concat(matrices), folder / "confusion.csv", columns=CONFUSION_COLUMNS)
    write_table(pd.concat(sources), folder / "sources.csv", columns=SOURCE_COLUMNS)
    return f"select_sources: {sum(map(len, sources))} target-source pairs in data/sources"


if __name__ == "__main__":
    main()
