"""Checks of model folders before any other work; torch is not loaded if all passed before."""

import json
import logging
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from genie.core.errors import FailedError
from genie.core.seeding import fingerprint

log = logging.getLogger(__name__)

MODEL_FILES = (".json", ".safetensors")


def model_fingerprint(folder: Path) -> str:
    """Return the fingerprint of the files from which a model is loaded."""
    return fingerprint(folder, (p for p in folder.iterdir() if p.suffix in MODEL_FILES))


def check_models(folders: Mapping[str, Path], passed: Path) -> None:
    """Load each model twice, and compare its outputs for an image of noise.

    `folders` maps the arguments "embedder", "oracle" and "clip" to model folders. `passed` is a
    JSON file with the fingerprints of models that passed; these models are not loaded again. Raise
    FailedError if a model does not load, or if its weights or outputs are random.
    """
    known: list[str] = json.loads(passed.read_text()) if passed.is_file() else []
    for argument, folder in folders.items():
        content = f"{argument} {model_fingerprint(folder)} {version('transformers')}"
        if content in known:
            continue
        log.info("%s: checking the model in %s", argument, folder)
        _check(argument, folder)
        known.append(content)
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.write_text(json.dumps(known, indent=1) + "\n")


def warn_unjudged(oracle: Path, labels: Iterable[str]) -> None:
    """Warn if an oracle lacks a class, because it will not judge the generated images.

    The warning comes before rendering, because afterwards would be too late.
    """
    config = json.loads((oracle / "config.json").read_text(encoding="utf-8"))
    if unknown := sorted(set(labels) - set(config.get("id2label", {}).values())):
        log.warning(
            "`oracle` %s does not know %d of the classes, such as %r, so generated images will not "
            "be judged and label consistency will not be measured",
            oracle,
            len(unknown),
            unknown[0],
        )


def _check(argument: str, folder: Path) -> None:
    from transformers.utils.logging import disable_progress_bar

    from genie.classify import backbone, clip  # imports torch

    disable_progress_bar()  # of loading
    loaders = {
        "embedder": lambda: backbone.load_backbone(folder, device="cpu"),
        "oracle": lambda: backbone.load_oracle(folder, device="cpu"),
        "clip": lambda: clip.load_image_tower(folder, argument=argument, device="cpu"),
    }
    first, second = (
        backbone.sample_output(loaders[argument](), folder, argument=argument) for _ in range(2)
    )
    if not first.equal(second):
        raise FailedError(
            f"must have trained weights, but {folder} gives another output each time it is loaded",
            argument=argument,
            remedy="download it again or choose another model",
        )
