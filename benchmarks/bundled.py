"""Helpers for the speed and memory benchmarks: requests, random models and processes."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from genie.core.tables import read_images
from genie.data.images import decode_image, encode_png
from genie.data.prompts import prompt_for
from genie.plan.levels import Levels
from genie.plan.requests import Request

RATIOS = Levels().ratios
GENERATOR = Path("zoo/generator")
SIDE = 32  # of the bundled images

Row = Mapping[str, object]


def bundled_requests(count: int, size: int = SIDE) -> tuple[list[Request], dict[str, bytes]]:
    """Return `count` requests, ordered by pair and level, and the source images.

    The sources have `size` pixels per side. The targets cycle through the classes other than the
    source's.
    """
    table = read_images(Path("data/bundled/train"))
    sources = list(zip(table["image_id"], table["label"], strict=True))
    classes = sorted(set(table["label"]))
    requests = []
    for i in range(count):
        pair, level = divmod(i, len(RATIOS))
        replicate, place = divmod(pair, len(sources))
        source, label = sources[place]
        others = [name for name in classes if name != label]
        target = others[pair % len(others)]
        prompt, r = prompt_for(target), RATIOS[level]
        requests.append(Request(source, label, target, prompt, "", r, replicate, 0, ""))
    png = dict(zip(table["image_id"], table["png"], strict=True))
    png = {name: png[name] for name in {str(request.source_id) for request in requests}}
    if size != SIDE:
        png = {n: encode_png(decode_image(p).resize((size, size))) for n, p in png.items()}
    return requests, png


def random_model(
    folder: Path, *, vae: Mapping[str, Any], unet: Mapping[str, Any], **parts: object
) -> Path:
    """Save a model with Stable Diffusion's layout and random weights for 512x512 images.

    `vae` and `unet` are options for the parts of these names. `parts` replaces other parts of the
    bundled model.
    """
    torch.manual_seed(0)
    pipeline: Any = StableDiffusionPipeline.from_pretrained(GENERATOR, **parts)
    blocks = [(f"{name}Block2D",) * 4 for name in ("DownEncoder", "UpDecoder")]
    pipeline.vae = AutoencoderKL(3, 3, *blocks, **vae, sample_size=512)
    pipeline.unet = UNet2DConditionModel(**unet, sample_size=64)
    pipeline.to(torch.float16).save_pretrained(folder)
    return folder


def in_own_process(module: str, *arguments: str) -> Row:
    """Run a benchmark in a process with its own peak memory; return the row that it prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    output = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True)
    found: Row = json.loads(output.splitlines()[-1])
    return found
