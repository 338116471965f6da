"""Show why it works: the decision boundary, the way of the embeddings, the chosen ratios.

In: data/prepared/support/, tasks.csv, data/augmented/, data/evaluation/verdicts.csv, the backbone.
Out: plots/levels.csv, plots/choices.csv, plots/boundary.png, plots/trajectories.png,
plots/ratios.png, plots/failures.png.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from genie.analysis import (
    ADA,
    CHOICE_COLUMNS,
    LEVEL_COLUMNS,
    boundary,
    by_level,
    choices,
    failures,
    pairs,
    plane,
)
from genie.backbones import load_backbone
from genie.classifiers import Examples
from genie.records import (
    MEMBER_COLUMNS,
    TASK_COLUMNS,
    VERDICT_COLUMNS,
    decode_png,
    read_images,
    read_table,
    write_table,
)
from genie.report import (
    TrajectoryPanel,
    boundary_figure,
    failure_sheet,
    ratio_figure,
    trajectory_figure,
)
from genie.training import load_examples, picker
from stages.common import features_file, stage
from stages.params import Params
from stages.settings import training_settings

PANELS = 6
FAILURES = 10


@stage
def main(params: Params, root: Path) -> str:
    """Show why it works: boundary, trajectories, chosen ratios."""
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", columns=TASK_COLUMNS)
    trajectories = pd.read_parquet(root / "data/augmented/trajectories.parquet")
    pool = load_examples(
        images, backbone=load_backbone(Path(params.classifier.backbone), cache=features_file(root))
    )
    support_of = picker(pool, images["image_id"])
    support = {
        int(task): support_of(rows["image_id"])
        for task, rows in tasks[tasks["role"] == "support"].groupby("task")
    }
    table = boundary(trajectories, support, settings=training_settings(params))
    levels = by_level(table)
    plots = root / "plots"
    write_table(levels, plots / "levels.csv", columns=LEVEL_COLUMNS)
    verdicts = read_table(root / "data/evaluation/verdicts.csv", columns=VERDICT_COLUMNS)
    chosen_ratios = choices(trajectories, verdicts, unclear_below=params.noise.unclear)
    write_table(chosen_ratios, plots / "choices.csv", columns=CHOICE_COLUMNS)
    chosen = table[table["chosen"]]
    shown = [(f"r = {r:g}", own) for r, own in table.groupby("r")]
    shown += [(ADA, chosen)] if len(shown) > 1 else []
    boundary_figure(
        [(name, own["p_source"].to_numpy(), own["p_target"].to_numpy()) for name, own in shown],
        plots / "boundary.png",
    )
    z_real = dict(zip(images["image_id"], pool.embeddings, strict=True))
    panels = [panel(pair, z_real, support) for pair in pairs(trajectories, PANELS)]
    trajectory_figure(panels, plots / "trajectories.png")
    curves = [p["position"].to_numpy(float) for p in pairs(trajectories, len(trajectories))]
    ratios = sorted(trajectories["r"].unique())
    ratio_figure(
        list(chosen["r"]),
        ratios,
        np.stack(curves) if curves else np.zeros((0, len(ratios))),
        plots / "ratios.png",
    )
    wrong = wrong_pairs(root, images, verdicts)
    failure_sheet(wrong, plots / "failures.png", judged=len(verdicts))
    return f"analyse: {len(table)} images on {len(levels)} rows of plots/levels.csv, 4 figures"


def wrong_pairs(
    root: Path, images: pd.DataFrame, verdicts: pd.DataFrame
) -> list[tuple[str, Image.Image | None, Image.Image]]:
    """Title, source and generated image of some that the oracle does not call by their label."""
    members = read_table(root / "data/augmented/members.csv", columns=MEMBER_COLUMNS)
    png = dict(zip(images["image_id"], images["png"], strict=True))
    return [
        (
            f"{row.source_label or 'noise'} → {row.label}\nr = {row.r:g}, called {row.verdict}",
            decode_png(png[row.source_id]) if row.source_id in png else None,
            decode_png((root / "data/augmented" / row.file_name).read_bytes()),
        )
        for row in failures(members, verdicts, FAILURES).itertuples()
    ]


def panel(
    pair: pd.DataFrame, z_real: dict[str, np.ndarray], support: dict[int, Examples]
) -> TrajectoryPanel:
    """One pair of a trajectories table in its own plane."""
    first = pair.iloc[0]
    real = support[int(first["task"])]
    own = np.array(real.labels) == first["target_label"]
    z_target = real.embeddings[own].mean(0)
    flat = plane(np.stack([z_real[first["source_id"]], z_target, *pair["embedding"]]))
    return TrajectoryPanel(
        title=f"{first['source_label']} → {first['target_label']}",
        source=flat[0],
        target=flat[1],
        levels=flat[2:],
        ratios=list(pair["r"]),
        chosen=int(pair["chosen"].to_numpy().argmax()),
    )


if __name__ == "__main__":
    main()
