"""Validate params.yaml, so that an invalid value stops the run before any other stage.

Inputs: params.yaml, the class names in data.path and in the generator's genie.json, and the
backbone, the oracle and CLIP, which are loaded and run once for each version of their files.
Output: .params.ok, which every other stage depends on. Its content is constant, so validating again
reruns no other stage.
"""

from pathlib import Path

import yaml

from genie.classify.model_checks import check_models, warn_unjudged
from genie.cli.places import require_tracked, work_folder
from genie.cli.repository import committed
from genie.core.errors import GenieError
from genie.data.prompts import read_names
from genie.data.readers import read_class_names
from genie.plan.known_classes import check_classes
from genie.plan.methods import METHODS, ratio_note
from genie.settings import Params, check_params, ineffective_changes, require_paths
from stages.runner import Context, stage


@stage
def main(params: Params, context: Context) -> str:
    """Validate params.yaml, its paths and models, and the names of the classes."""
    require_tracked(
        [
            params.data.path,
            params.prompt.folder,
            params.generator.model,
            params.classifier.backbone,
            params.oracle.model,
            params.filter.clip,
        ]
    )
    require_paths(params)
    classes = read_class_names(params.data.path)
    if params.generator.unknown_classes == "stop":
        check_classes(
            lambda: classes,
            method=params.method,
            model=params.generator.model,
            names=read_names(params.prompt.names),
        )
    models = {
        "embedder": params.classifier.backbone,
        "oracle": params.oracle.model,
        "clip": params.filter.clip,
    }
    check_models(models, work_folder(context.root) / "checked-models.json")
    (context.root / ".params.ok").write_text("params.yaml is valid\n")
    if METHODS[params.method].renders:
        warn_unjudged(params.oracle.model, read_class_names(params.data.path))
    note = ratio_note(params.method, params.noise.r)
    if ignored := _ineffective(params, context.params_file):
        note += f"; {ignored}"
    return f"validate: all parameters are valid and all paths exist{note}"


def _ineffective(params: Params, file: Path) -> str:
    """Return a note on keys that changed since the last commit and have no effect."""
    try:
        before = check_params(yaml.safe_load(committed(file)), where=str(file))
    except (yaml.YAMLError, GenieError):  # no commit, or one of another version
        return ""
    return ineffective_changes(params, before)


if __name__ == "__main__":
    main()
