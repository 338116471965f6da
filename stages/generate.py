"""Render hard negatives, choose r for each image, and write the augmentation set.

Inputs: data/prepared/ except the query images, data/sources/sources.csv, models/baseline/, the
generator, the backbone, the prompt files, and CLIP for some filter rules. Outputs: data/augmented/,
data/thumbnails.parquet and metrics/cost.json.
"""

from genie.cli.engine_settings import read_engine
from genie.cli.places import note_run, work_folder
from genie.core.tables import read_images
from genie.data.thumbnails import write_thumbnails
from genie.pipeline import from_params, read_tasks
from genie.settings import Params, augmentation
from stages.runner import Context, stage


@stage
def main(params: Params, context: Context) -> str:
    """Render hard negatives, choose r for each image, and write the augmentation set."""
    root, engine = context.root, read_engine(context.root)
    images, tasks = read_images(root / "data/prepared/support"), read_tasks(root)
    licence = (root / "data/prepared/LICENSE.txt").read_text(encoding="utf-8")
    pipe = from_params(
        params, work_folder(root), engine.cluster, engine.remote_store, context.monitor.progress
    )
    with pipe.store.in_use():
        made = pipe.augment_tasks(images, tasks, augmentation(params), source_licence=licence)
        made.images.save(root / "data/augmented", shards=params.augment.shards)
        keys = made.images.trajectories["key"]
        write_thumbnails(keys, root / "data/thumbnails.parquet", picture_of=pipe.store.image)
    made.write_cost(root / "metrics/cost.json")
    for number, kept in enumerate(made.drawn.kept, start=1):
        context.monitor.record("images_kept", number, kept)
    note_run(root, "rendering", **made.drawn.cost.of_this_run())
    return f"generate: {len(made.images)} images in data/augmented; {made.drawn.cost.summary()}"


if __name__ == "__main__":
    main()
