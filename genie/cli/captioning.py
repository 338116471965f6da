"""Captioning of support images for Cap2Aug, which uses the captions as prompts.

A captioning model writes the captions to a CSV file once. The pipeline only reads this file, so you
may edit it by hand.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from genie.core.device import default_device
from genie.core.errors import MissingFileError
from genie.core.tables import CAPTIONS, empty, read_table, write_table
from genie.data.images import decode_image
from genie.data.prompts import read_captions

BATCH = 16
LONGEST = 30  # tokens


def write_captions(images: pd.DataFrame, *, model: Path, path: Path) -> int:
    """Add missing captions to the CSV file `path`, and return the number of added captions.

    Existing captions are kept, even if they were edited. `images` has the columns of IMAGES.
    `model` is the folder of a transformers image-to-text model such as BLIP.
    """
    kept = read_captions(path) if path.is_file() else {}
    missing = images[~images["image_id"].isin(kept)].drop_duplicates("image_id")
    old = read_table(path, CAPTIONS) if path.is_file() else empty(CAPTIONS)
    pictures = [decode_image(png) for png in missing["png"]]
    captions = caption(pictures, model=model) if pictures else []
    table = pd.concat([old, missing.assign(caption=captions)]).sort_values(["label", "image_id"])
    whole = path.with_name(f".{path.name}")
    write_table(table, whole, CAPTIONS)
    whole.replace(path)  # which may be a link into DVC's cache
    return len(missing)


@torch.inference_mode()
def caption(images: Sequence[Image.Image], *, model: Path) -> list[str]:
    """Generate a short English caption for each image by greedy decoding."""
    if not (model / "config.json").is_file():
        raise MissingFileError(
            f"must be a folder of a transformers image-to-text model, but {model} has no "
            "config.json",
            argument="MODEL",
            remedy=f"download one with `genie fetch ID {model}`, for example "
            "Salesforce/blip-image-captioning-base",
        )
    device = default_device()
    network = AutoModelForImageTextToText.from_pretrained(
        model, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    network = network.float().eval().to(device)
    processor = AutoProcessor.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    sentences: list[str] = []
    for start in range(0, len(images), BATCH):
        inputs = processor(images=list(images[start : start + BATCH]), return_tensors="pt")
        ids = network.generate(**inputs.to(device), max_new_tokens=LONGEST, do_sample=False)
        sentences += processor.batch_decode(ids, skip_special_tokens=True)
    return [" ".join(sentence.split()) for sentence in sentences]
