"""Validate all of params.yaml, so that a bad value stops the run before any work is done.

Inputs: params.yaml, and the class names in data.path and in the generator's genie.json.
Output: .params.ok, which every other stage depends on. Its content is constant, so it reruns no
stage.
"""

from pathlib import Path

from genie.data.readers import read_class_names
from genie.errors import GenieError
from genie.generate.methods import METHODS

from .shared.classes import check_classes
from .shared.command import stage
from .shared.params import Params


@stage
def main(params: Params, root: Path) -> str:
    """Validate params.yaml, and check its paths and that the generator knows the classes."""
    check_paths(params)
    check_classes(params, lambda: read_class_names(params.data.path))
    (root / ".params.ok").write_text("params.yaml is valid\n")
    return f"validate: every parameter is known and in range, every path is there{note(params)}"


def check_paths(params: Params) -> None:
    """Raise GenieError for the first path in the parameters that does not exist."""
    if not params.data.path.exists():
        raise GenieError(
            f"data.path must be an existing image folder, Parquet file or saved data set, got "
            f"{params.data.path}; give an existing path or download a data set with "
            f"`genie fetch ID {params.data.path} --kind dataset`"
        )
    for file in (params.prompt.names, params.prompt.captions, params.prompt.contexts):
        if not file.is_file():
            raise GenieError(
                f"prompt.folder must hold names.csv, captions.csv and contexts.csv, {file} does "
                "not exist; start from a copy of the one in prompts/"
            )
    models = {
        "generator.model": params.generator.model,
        "classifier.backbone": params.classifier.backbone,
        "oracle.model": params.oracle.model,
        "filter.clip": params.filter.clip,
    }
    for key, folder in models.items():
        if not folder.is_dir():
            raise GenieError(
                f"{key} must be an existing model folder, got {folder}; download one with "
                f"`genie fetch ID {folder}`"
            )


def note(params: Params) -> str:
    """Return a note if the method uses its own ratio in place of "ada", else an empty string."""
    ratio = METHODS[params.method].ratio
    if params.noise.r == "ada" and METHODS[params.method].by_shots:
        return f"; noise.r falls with the support images of a class for {params.method}"
    if params.noise.r != "ada" or ratio is None:
        return ""
    return f"; noise.r is {ratio} for {params.method}, which compares no levels"


if __name__ == "__main__":
    main()
