"""Captions of support images, which Cap2Aug takes as prompts.

A captioner writes them once into a CSV, which a person may edit; the pipeline reads only the CSV.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from genie.backbones import default_device
from genie.errors import GenieError
from genie.records import CAPTION_COLUMNS, read_table, write_table

BATCH = 16
LONGEST = 30  # tokens


def write_captions(
    images: Sequence[Image.Image], ids: Sequence[str], labels: Sequence[str], *,
    model: Path, path: Path,
) -> int:  # fmt: skip
    """Add a caption for each image that `path` has none for; how many were added.

    What is there stays as it is, also where a person changed it. `model` is a transformers
    image-to-text folder (BLIP and its like).
    """
    kept = read_captions(path) if path.is_file() else {}
    known = dict(zip(ids, zip(images, labels, strict=True), strict=True))
    missing = [i for i in known if i not in kept]
    found = caption([known[i][0] for i in missing], model=model) if missing else []
    old = read_table(path, columns=CAPTION_COLUMNS) if path.is_file() else pd.DataFrame()
    new = pd.DataFrame(
        {"image_id": missing, "label": [known[i][1] for i in missing], "caption": found}
    )
    table = pd.concat([old, new]).sort_values(["label", "image_id"])
    write_table(table, path, columns=CAPTION_COLUMNS)
    return len(missing)


def read_captions(path: Path) -> dict[str, str]:
    """Captions by image id. GenieError for a missing file or column, or an image named twice."""
    table = read_table(path, columns=CAPTION_COLUMNS)
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise GenieError(f"{path} must name each image once, {twice.iloc[0]} is there twice")
    return dict(zip(table["image_id"], table["caption"], strict=True))


def require_captions(captions: Mapping[str, str], images: Sequence[str], *, path: Path) -> None:
    """GenieError unless every image has a caption."""
    missing = [i for i in images if not captions.get(i, "").strip()]
    if missing:
        raise GenieError(
            f"prompt.captions: {path} has no caption for {len(missing)} of {len(images)} support "
            f"images, the first is {missing[0]}; run `genie caption MODEL data/prepared/support "
            f"{path}`, or write them by hand"
        )


@torch.inference_mode()
def caption(images: Sequence[Image.Image], *, model: Path) -> list[str]:
    """A short English sentence per image, by greedy decoding."""
    if not (model / "config.json").is_file():
        raise GenieError(
            f"MODEL must be a folder of a transformers image-to-text model, {model} has no "
            f"config.json; bring one with `genie fetch ID {model}`, for example "
            "Salesforce/blip-image-captioning-base"
        )
    device = default_device()
    network = AutoModelForImageTextToText.from_pretrained(
        model, use_safetensors=True, local_files_only=True
    )
    network = network.float().eval().to(device)
    processor = AutoProcessor.from_pretrained(model, local_files_only=True)
    sentences: list[str] = []
    for start in range(0, len(images), BATCH):
        inputs = processor(images=list(images[start : start + BATCH]), return_tensors="pt")
        ids = network.generate(**inputs.to(device), max_new_tokens=LONGEST, do_sample=False)
        sentences += processor.batch_decode(ids, skip_special_tokens=True)
    return [" ".join(sentence.split()) for sentence in sentences]
