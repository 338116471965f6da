"""Train a classifier per task on weakly augmented support images, with out-of-fold predictions.

Inputs: data/prepared/support/, data/prepared/tasks.csv and the backbone. Outputs: models/baseline/
and data/baseline/predictions.csv (out-of-fold predictions for the support images).
"""

from functools import partial

from genie.classify.backbone import load_backbone
from genie.classify.files import save_classifiers
from genie.classify.tasks import train_baselines
from genie.cli.places import features_file
from genie.core.tables import PREDICTIONS, read_images, read_support, write_table
from genie.settings import Params, training_recipe
from stages.runner import Context, stage


@partial(stage, trains=True)
def main(params: Params, context: Context) -> str:
    """Train a classifier per task on the support images alone, with weak augmentation."""
    root = context.root
    models, predictions = train_baselines(
        read_images(root / "data/prepared/support"),
        read_support(root / "data/prepared/tasks.csv"),
        training_recipe(params),
        load_backbone(params.classifier.backbone, cache=features_file(root)),
        monitor=context.monitor,
    )
    if context.writes:
        write_table(predictions, root / "data/baseline/predictions.csv", PREDICTIONS)
        save_classifiers(models, root / "models/baseline")
    return f"train_baseline: {len(models)} classifiers in models/baseline"


if __name__ == "__main__":
    main()
