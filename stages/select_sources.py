"""Choose and rank the source classes of each target.

Input: data/baseline/predictions.csv. Outputs: data/sources/confusion.csv and
data/sources/sources.csv.
"""

import pandas as pd

from genie.classify.confusion import rank_sources
from genie.core.tables import CONFUSION, PREDICTIONS, SOURCES, read_table, write_table
from genie.settings import Params
from stages.runner import Context, stage


@stage
def main(params: Params, context: Context) -> str:
    """Choose and rank the source classes of each target."""
    predictions = read_table(context.root / "data/baseline/predictions.csv", PREDICTIONS)
    strategy, top_k = params.sources.strategy, params.sources.top_k
    matrices, sources = [], []
    for task, rows in predictions.groupby("task"):
        matrix, ranked = rank_sources(rows, strategy=strategy, top_k=top_k, seed=params.seed)
        matrices.append(matrix.stack().rename("probability").reset_index().assign(task=task))
        sources.append(ranked.assign(task=task))
    folder = context.root / "data/sources"
    write_table(pd.concat(matrices), folder / "confusion.csv", CONFUSION)
    write_table(pd.concat(sources), folder / "sources.csv", SOURCES)
    return f"select_sources: {sum(map(len, sources))} target-source pairs in data/sources"


if __name__ == "__main__":
    main()
