"""What the measurements of machines share: requests on the bundled data, models, processes."""

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
    """Return `count` requests, all levels of one pair after another, and the source images.

    The sources have `size` pixels per side. Targets are other classes than the source's, in turn.
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
    """Save a model of Stable Diffusion's layout for 512x512 images, with random weights.

    `vae` and `unet` are the options of these parts. The others are `parts` or the bundled ones.
    """
    torch.manual_seed(0)
    pipeline: Any = StableDiffusionPipeline.from_pretrained(GENERATOR, **parts)
    blocks = [(f"{name}Block2D",) * 4 for name in ("DownEncoder", "UpDecoder")]
    pipeline.vae = AutoencoderKL(3, 3, *blocks, **vae, sample_size=512)
    pipeline.unet = UNet2DConditionModel(**unet, sample_size=64)
    pipeline.to(torch.float16).save_pretrained(folder)
    return folder


def in_own_process(module: str, *arguments: str) -> Row:
    """Return the row that a benchmark prints as JSON; freed memory counts in a process's peak."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    output = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True)
    found: Row = json.loads(output.splitlines()[-1])
    return found
