"""Train a classifier per task on support and generated images.

Inputs: data/prepared/support/, data/prepared/tasks.csv, data/augmented/ and the backbone. Output:
models/augmented/, with mixtures.csv if the method mixes real and generated images.
"""

from functools import partial

from genie.classify.backbone import load_backbone
from genie.classify.files import save_classifiers
from genie.classify.tasks import retrain
from genie.cli.places import features_file
from genie.core.tables import MIXTURES, read_images, read_support, write_table
from genie.plan.methods import METHODS
from genie.settings import Params, training_recipe
from stages.runner import Context, stage


@partial(stage, trains=True)
def main(params: Params, context: Context) -> str:
    """Train a classifier per task on support and generated images."""
    root = context.root
    models, mixtures = retrain(
        read_images(root / "data/prepared/support"),
        read_support(root / "data/prepared/tasks.csv"),
        root / "data/augmented",
        training_recipe(params, METHODS[params.method], params.augment.real_passes),
        load_backbone(params.classifier.backbone, cache=features_file(root)),
        monitor=context.monitor,
    )
    if context.writes:
        save_classifiers(models, root / "models/augmented")
        if len(mixtures):
            write_table(mixtures, root / "models/augmented/mixtures.csv", MIXTURES)
    return f"retrain: {len(models)} classifiers in models/augmented"


if __name__ == "__main__":
    main()
