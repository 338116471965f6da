"""Evaluate both classifiers on the query images, and the generated images with the oracle.

Inputs: models/baseline/, models/augmented/, data/prepared/, data/sources/confusion.csv,
data/augmented/, the backbone and the oracle. Outputs: metrics/evaluate.json, metrics/tasks.csv,
metrics/classes.csv, data/evaluation/verdicts.csv, plots/confusion_baseline.csv and
plots/confusion.csv.
"""

from genie.classify.backbone import load_backbone, load_oracle
from genie.cli.places import features_file
from genie.measure.evaluation import evaluate, read_scored, write_evaluation
from genie.settings import Params
from stages.runner import Context, stage


@stage
def main(params: Params, context: Context) -> str:
    """Evaluate both classifiers on the query images."""
    root, cache = context.root, features_file(context.root)
    evaluation = evaluate(
        read_scored(root),
        backbone=load_backbone(params.classifier.backbone, cache=cache),
        oracle=load_oracle(params.oracle.model, cache=cache),
        progress=context.monitor.progress,
    )
    write_evaluation(evaluation, root)
    gain, over = evaluation.summary["gain"], evaluation.summary["interval_over"]
    return f"evaluate: gain {gain.mean:+.4f} over {gain.n} {over} in metrics/evaluate.json"


if __name__ == "__main__":
    main()
