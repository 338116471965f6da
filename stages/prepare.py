"""Read the images, split off the query images, and draw the tasks.

Input: data.path. Outputs in data/prepared/: support/ and query/ (the images that tasks use),
tasks.csv, skipped.csv and LICENSE.txt.
"""

from genie.core.tables import SKIPPED, TASKS, write_images, write_table
from genie.data.depth import write_depth
from genie.data.licence import licence_text
from genie.data.pools import Splitting, read_and_split
from genie.settings import Params, draws
from stages.runner import Context, stage


@stage
def main(params: Params, context: Context) -> str:
    """Read the images, split off the query images, and draw the tasks."""
    data, folder = params.data, context.root / "data/prepared"
    drawn = draws(params)
    pools = read_and_split(
        data.path,
        size=data.size,
        crop=data.crop,
        skip_broken=data.broken == "skip",
        splitting=Splitting(data.query_fraction, params.seed, drawn.splits),
        progress=context.monitor.progress,
    )
    tasks = pools.tasks(drawn)
    used = pools.used_by(tasks)
    write_images(used.support, folder / "support")
    write_depth(folder / "support", pools.depth)
    write_images(used.query, folder / "query")
    write_table(tasks, folder / "tasks.csv", TASKS)
    write_table(pools.skipped, folder / "skipped.csv", SKIPPED)
    licence = licence_text(data.path) or "not stated with the data"
    (folder / "LICENSE.txt").write_text(licence, encoding="utf-8")
    return f"prepare: {used.summary(tasks)} in {folder}"


if __name__ == "__main__":
    main()
