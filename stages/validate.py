"""Check params.yaml as a whole, so that a bad value stops the run before any work.

In: params.yaml. Out: .params.ok, a constant that every other stage depends on.
"""

from pathlib import Path

from genie.errors import GenieError
from stages.common import stage
from stages.params import Params


@stage
def main(params: Params, root: Path) -> str:
    """Check params.yaml as a whole, and that the paths in it are there."""
    check_paths(params)
    (root / ".params.ok").write_text("params.yaml is valid\n")
    return "validate: every parameter is known and in range, every path is there"


def check_paths(params: Params) -> None:
    """GenieError for the first path of the parameters that is not there."""
    if not Path(params.data.path).exists():
        raise GenieError(
            f"data.path must be an image folder, a Parquet file or a saved data set, got "
            f"{params.data.path}, not there; give an existing path or bring a data set with "
            f"`genie fetch ID {params.data.path}`"
        )
    tables = {
        "prompt.names": params.prompt.names,
        "prompt.captions": params.prompt.captions,
        "prompt.contexts": params.prompt.contexts,
    }
    for key, file in tables.items():
        if not Path(file).is_file():
            raise GenieError(
                f"{key} must be a CSV file, got {file}, not there; prompts/ holds ones to "
                "start from"
            )
    models = {
        "generator.model": params.generator.model,
        "classifier.backbone": params.classifier.backbone,
        "oracle.model": params.oracle.model,
        "filter.clip": params.filter.clip,
    }
    for key, folder in models.items():
        if not Path(folder).is_dir():
            raise GenieError(
                f"{key} must be a model folder, got {folder}, not there; bring one with "
                f"`genie fetch ID {folder}`"
            )


if __name__ == "__main__":
    main()
