"""Analyse why the method works: decision boundary, source-target trajectories and chosen levels.

Inputs: data/prepared/support/, data/prepared/tasks.csv, data/augmented/, data/thumbnails.parquet,
data/evaluation/verdicts.csv, plots/confusion_baseline.csv, plots/confusion.csv,
metrics/evaluate.json, metrics/cost.json and the backbone. Outputs: levels.csv, choices.csv,
contact_sheet.png, boundary.png, trajectories.png, ratios.png, failures.png and report.html in
plots/.
"""

from genie.classify.backbone import load_backbone
from genie.cli.places import features_file
from genie.figures.analysis import draw_figures, read_outputs
from genie.settings import Params
from stages.runner import Context, stage


@stage
def main(params: Params, context: Context) -> str:
    """Analyse the decision boundary, the trajectories and the chosen noise ratios."""
    root = context.root
    backbone = load_backbone(params.classifier.backbone, cache=features_file(root))
    count = draw_figures(
        read_outputs(root, backbone),
        root / "plots",
        seed=params.seed,
        method=params.method,
        progress=context.monitor.progress,
    )
    return f"analyse: {count} images in plots/levels.csv, 5 figures and report.html in plots/"


if __name__ == "__main__":
    main()
