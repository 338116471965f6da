"""Render hard negatives, choose r for each image, and write the augmentation set.

Inputs: data/prepared/support/, data/prepared/tasks.csv, data/prepared/LICENSE.txt,
data/sources/sources.csv, models/baseline/, the generator, the backbone, the prompt files, and CLIP
for some filter rules.
Outputs: data/augmented/, data/thumbnails.parquet, metrics/cost.json.
"""

import json
import logging
from pathlib import Path

from genie.classify.backbone import load_backbone
from genie.classify.examples import load_examples, picker
from genie.classify.files import load_classifiers
from genie.data.augmented_set import write_set
from genie.generate.card import data_card
from genie.generate.claims import in_use
from genie.generate.filters import apply_rule, draw_until_kept
from genie.generate.known import model_licence
from genie.generate.methods import target_weights
from genie.generate.renderer import Cost, Renderer
from genie.generate.search import as_table, called_target, landmarks_of
from genie.generate.thumbnails import write_thumbnails
from genie.tables import TASKS, read_images, read_table

from .shared.classes import check_classes
from .shared.command import stage
from .shared.engine import read_engine
from .shared.generation import judge_per_task, plan, renderer_of, rule_of, search
from .shared.params import Params
from .shared.places import features_file, note_run, store_folder
from .shared.tracking import Curves, kept_recorder, speed_recorder

log = logging.getLogger("genie")


@stage
def main(params: Params, root: Path) -> str:
    """Render hard negatives, choose r for each image, and write the augmentation set."""
    with in_use(store_folder(root)):
        return generate(params, root)


def generate(params: Params, root: Path) -> str:
    """Do the stage's work while no image can be deleted from the store."""
    images = read_images(root / "data/prepared/support")
    tasks = read_table(root / "data/prepared/tasks.csv", TASKS)
    support = tasks[tasks["role"] == "support"]
    check_classes(params, support["label"].unique)  # the data may have changed since validate
    baseline = load_classifiers(root / "models/baseline")
    backbone = load_backbone(params.classifier.backbone, cache=features_file(root))
    real = load_examples(images, backbone=backbone)
    embeddings = dict(zip(images["image_id"], real.embeddings, strict=True))
    marks = landmarks_of(support, embeddings, backbone)
    judges = judge_per_task(params, root, support, picker(real, images["image_id"]), baseline)
    curves = Curves(root, "generate")
    renderer = renderer_of(
        *(params, root, images), on_image=speed_recorder(curves), engine=read_engine(root)
    )
    wanted = plan(params, root, renderer, support)

    trajectories, cost = draw_until_kept(
        wanted,
        search=lambda some: search(params, some, renderer, marks),
        kept=kept_recorder(
            curves, lambda some: apply_rule(some, rule_of(params), judges, renderer)
        ),
        attempts=params.filter.attempts,
    )
    curves.end()
    table = as_table(trajectories, called_target(trajectories, baseline, renderer))
    table["target_weight"] = target_weights(params.method, table["r"].to_numpy())
    members = write_set(
        table,
        root / "data/augmented",
        provenance=provenance(params, renderer),
        png_of=renderer.png,
        shard=params.augment.shards,
    )
    thumbnails = root / "data/thumbnails.parquet"
    write_thumbnails(table["key"], thumbnails, picture_of=renderer.picture)
    made = members["file_name"].nunique()
    rejected, short = len(trajectories) - len(members), len(wanted) - len(members)
    card = data_card(
        *(table, renderer),
        method=params.method,
        rejected=rejected,
        short=short,
        sharded=params.augment.shards is not None,
        generator_licence=model_licence(params.generator.model),
        source_licence=(root / "data/prepared/LICENSE.txt").read_text(encoding="utf-8"),
    )
    (root / "data/augmented/README.md").write_text(card, encoding="utf-8")
    warn_of_shortfall(params, short, len(wanted))
    write_cost(root, cost, images=made, rejected=rejected, short=short)
    return (
        f"generate: {made} images in data/augmented; {cost.rendered} rendered in "
        f"{cost.seconds:.0f} s, {cost.found} taken from the store"
    )


def provenance(params: Params, renderer: Renderer) -> dict[str, object]:
    """Return the metadata that all images of the set share."""
    return {
        "method": params.method,
        "guidance_scale": renderer.guidance_scale,
        "scheduler": renderer.generator.scheduler,
        "generator": renderer.generator.name,
        "fingerprint": renderer.generator.fingerprint,
    }


def warn_of_shortfall(params: Params, short: int, wanted: int) -> None:
    """Log a warning if some wanted images were rejected in all attempts."""
    if short:
        log.warning(
            "%d of %d images were rejected in all %d attempts and are replaced by copies of real "
            "images; increase filter.attempts, or relax filter.rule (%s; the thresholds of cosine "
            "are filter.least_text and filter.least_image)",
            *(short, wanted, params.filter.attempts, rule_of(params)),
        )


def write_cost(root: Path, cost: Cost, *, images: int, rejected: int, short: int) -> None:
    """Write reproducible numbers to metrics/cost.json and those of this run to .genie/runs."""
    same = {
        "needed": cost.needed,
        "guided_steps_needed": cost.guided_steps_needed,
        "rejected": rejected,
        "short": short,
        "images": images,
    }
    path = root / "metrics/cost.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(same, indent=1) + "\n")
    note_run(
        root,
        "rendering",
        found=cost.found,
        rendered=cost.rendered,
        guided_steps_rendered=cost.guided_steps_rendered,
        seconds=round(cost.seconds, 2),
        batch_size=cost.batch_size,
        in_float32=cost.in_float32,
    )


if __name__ == "__main__":
    main()
