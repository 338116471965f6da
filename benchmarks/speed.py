"""GeNIe-Ada for some pairs by seven renderers, in one run on one machine.

    python -m benchmarks.speed                              # the embedded generator, 32 pairs
    python -m benchmarks.speed --architecture sd15          # Stable Diffusion 1.5's, random weights

Contenders: the authors' loop (one image at a time, image and prompt encoded anew for each level),
diffusers' pipeline with a level's images in one batch, ours exact (on a CPU by OpenVINO, whose
preparation counts in the first repeat), ours exact the other way (on a CPU by PyTorch, on a GPU
compiled), ours with previews, ours exact and with previews in bfloat16. Each makes five levels for
every pair, except that previews do so with few steps, render one level in full, and for every tenth
pair, as many as are unclear on the embedded default, three more.
Out: a CSV, and beside it a JSON with the machine, versions, and for our exact renderer the share of
time outside the denoiser and the share of the machine's matrix-product peak inside it.
"""

import json
import platform
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import pandas as pd
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from genie.choose.search import PREVIEW_STEPS
from genie.core.tables import Schema, read_images, write_table
from genie.data.images import decode_image, encode_png, image_id
from genie.plan.forecast import guided_steps
from genie.plan.levels import Levels, denoising_steps, strength
from genie.plan.requests import Request
from genie.render.batches import batches
from genie.render.model import Generator, load_generator
from genie.render.model_info import RenderSettings
from genie.render.stable_diffusion import StableDiffusionRenderer

STEPS = 50  # the paper's
RATIOS = Levels(0.5, 0.9, 5).ratios
PACKAGES = ("torch", "diffusers", "transformers", "openvino")
SPEED: Schema = {
    "contender": str,
    "repeat": int,
    "seconds": float,
    "images_per_second": float,
    "guided_steps": int,
    "guided_steps_per_second": float,
    "peak_mebibytes": float,
    "times_authors": float,
}
AUTHORS = "authors' loop"

Returned = TypeVar("Returned")


@dataclass(frozen=True)
class Work:
    """The work of every contender: GeNIe-Ada for the pairs, in `steps` denoising steps.

    `pairs` are requests at the lowest level; `sources` holds PNG bytes by image_id.
    """

    pairs: Sequence[Request]
    sources: Mapping[str, bytes]
    steps: int = STEPS

    @property
    def guided_steps(self) -> int:
        """Guided steps of all levels of all pairs, each in full."""
        return len(self.pairs) * sum(denoising_steps(r, self.steps) for r in RATIOS)

    def picture(self, request: Request) -> Image.Image:
        """The request's source."""
        return decode_image(self.sources[str(request.source_id)])


def bundled_work(count: int) -> Work:
    """`count` pairs of the bundled data: images of each class to each other class."""
    table = read_images(Path("data/bundled/train")).groupby("label").head(4)
    classes = sorted(table["label"].unique())
    sources = dict(zip(table["image_id"], table["png"], strict=True))
    rows = [(r.image_id, r.label) for r in table.itertuples()]
    found = [
        _request(str(image), str(label), target)
        for target, (image, label) in product(classes, rows)
        if target != label
    ]
    chosen = found[:: max(1, len(found) // count)]
    return Work(list(islice(chosen, count)), sources)


def noise_work(count: int, size: int) -> Work:
    """`count` pairs from random pictures: for weights that know no pictures anyway."""
    random = np.random.default_rng(0)
    pictures = [
        Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)) for _ in range(count)
    ]
    sources = {image_id(p): encode_png(p) for p in pictures}
    return Work([_request(i, "cat", "dog") for i in sources], sources)


def _request(source: str, label: str, target: str) -> Request:
    return Request(source, label, target, f"a photo of a {target}", "", RATIOS[0], 0, 0, "")


def stock_pipeline(folder: Path, generator: Generator) -> Any:
    """diffusers' own pipeline with the solver of the paper, on the same device."""
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        folder, dtype=generator.pipeline.dtype, safety_checker=None, use_safetensors=True
    )
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="linspace"
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(generator.info.device)


def authors_loop(work: Work, pipeline: Any, guidance: float) -> int:
    """One image at a time, every level from scratch; guided steps taken."""
    for request, r in product(work.pairs, RATIOS):
        pipeline(
            prompt=request.prompt,
            image=work.picture(request),
            strength=strength(r, work.steps),
            num_inference_steps=work.steps,
            guidance_scale=guidance,
        )
    return work.guided_steps


def batched_by_level(work: Work, pipeline: Any, guidance: float, batch: int) -> int:
    """diffusers' pipeline, all pairs of a level in batches of `batch`; guided steps taken."""
    for r, start in product(RATIOS, range(0, len(work.pairs), batch)):
        part = work.pairs[start : start + batch]
        pipeline(
            prompt=[request.prompt for request in part],
            image=[work.picture(request) for request in part],
            strength=strength(r, work.steps),
            num_inference_steps=work.steps,
            guidance_scale=guidance,
        )
    return work.guided_steps


def exact(work: Work, generator: Generator) -> int:
    """Our renderer: all levels in full; guided steps taken."""
    return _rendered(_every_level(work), work, generator, work.steps)


def previews(work: Work, generator: Generator) -> int:
    """Our renderer: all levels as previews, and in full what a preview search needs.

    That is one level of every pair (r = 0.7, the mean) and three more of every tenth.
    """
    final = [replace(request, r=0.7) for request in work.pairs]
    final += [replace(request, r=r) for request in work.pairs[5::10] for r in (0.5, 0.6, 0.8)]
    return _rendered(_every_level(work), work, generator, PREVIEW_STEPS) + _rendered(
        final, work, generator, work.steps
    )


def _every_level(work: Work) -> list[Request]:
    return [replace(request, r=r) for request in work.pairs for r in RATIOS]


def _rendered(requests: Sequence[Request], work: Work, generator: Generator, steps: int) -> int:
    """Render the requests as PIL images, as the other contenders do; return their guided steps."""
    render, size = StableDiffusionRenderer(generator), generator.info.batch_size
    for batch in batches(requests, steps, size, mixed=generator.info.starts_anywhere):
        render(batch, work.sources, steps, size)
    return guided_steps(requests, steps)


def sd15(folder: Path) -> Path:
    """A Stable Diffusion 1.5 folder with random weights: its cost without its pictures."""
    torch.manual_seed(0)
    words = CLIPTokenizer.from_pretrained("zoo/generator/tokenizer", model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, projection_dim=768,
    )  # fmt: skip
    pipeline: Any = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            sample_size=512,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=words,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    return folder


def machine(device: str) -> dict[str, str | int]:
    """What the numbers depend on, without the machine's name."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return {
        "device": device,
        "name": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def matrix_peak(device: str, dtype: torch.dtype) -> float:
    """TFLOP per second of a large matrix product, the best of ten."""
    side = 8192 if device == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    seconds = min(timed(lambda: a @ a, device)[0] for _ in range(10))
    return 2 * side**3 / seconds / 1e12


def timed(call: Callable[[], Returned], device: str) -> tuple[float, Returned]:
    """Seconds that a call takes, the device's queue included, and what it returns."""
    start = time.perf_counter()
    returned = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, returned


def sample_tflop(generator: Generator) -> float:
    """TFLOP of one sample's pass through the denoiser; a guided step takes two."""
    device, dtype = generator.info.device, generator.pipeline.dtype
    side = generator.info.size // generator.pipeline.vae_scale_factor
    prompt, _ = generator.pipeline.encode_prompt("", device, 1, do_classifier_free_guidance=False)
    latents = torch.zeros(1, 4, side, side, device=device, dtype=dtype)
    step = torch.zeros(1, dtype=torch.int64, device=device)
    # attention as plain products: the counter does not know every fused kernel
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        generator.pipeline.unet(latents, step, encoder_hidden_states=prompt)
    return counter.get_total_flops() / 1e12


def shares(work: Work, generator: Generator) -> dict[str, float]:
    """Where our exact renderer's time goes, from a run with a clock around the denoiser."""
    inside: list[float] = []
    samples: list[int] = []
    plain, device = generator.denoiser, generator.info.device
    assert plain is not None

    def clocked(*inputs: torch.Tensor) -> torch.Tensor:
        if device == "cuda":
            torch.cuda.synchronize()  # what was queued before is not the denoiser's
        seconds, predicted = timed(lambda: plain(*inputs), device)
        inside.append(seconds)
        samples.append(len(inputs[0]))
        return predicted

    watched = replace(generator, denoiser=clocked)
    seconds, _ = timed(lambda: exact(work, watched), device)
    peak = matrix_peak(device, generator.dtype)
    reached = sum(samples) * sample_tflop(generator) / sum(inside)
    return {
        "matrix_product_tflops": round(peak, 3),
        "denoiser_tflops": round(reached, 3),
        "share_of_peak": round(reached / peak, 3),
        "share_outside_denoiser": round(1 - sum(inside) / seconds, 3),
    }


def start_peak(device: str) -> None:
    """Forget the most memory that was used until now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").is_file():
        Path("/proc/self/clear_refs").write_text("5")


def peak_mebibytes(device: str) -> float:
    """The most memory used since: of the GPU, or on Linux of the process; else NaN."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return round(int(found[1]) / 1024) if found else float("nan")


@dataclass(frozen=True)
class Models:
    """One model in the ways that the contenders load it.

    `otherwise` is compiled where `ours` is not, and the other way round.
    """

    ours: Generator
    otherwise: Generator
    half: Generator
    stock: Any


def load_models(folder: Path) -> Models:
    """The models of a Stable Diffusion folder."""
    generator = load_generator(folder)
    compiled = generator.info.device == "cuda"
    return Models(
        ours=generator,
        otherwise=load_generator(folder, RenderSettings(compile=compiled)),
        half=load_generator(folder, RenderSettings(dtype="bfloat16")),
        stock=stock_pipeline(folder, generator),
    )


def contenders(work: Work, models: Models) -> dict[str, Callable[[], int]]:
    """What is timed, by name; each returns the guided steps that it took."""
    ours, guidance = models.ours, models.ours.info.guidance_scale
    batch = ours.info.batch_size
    otherwise = "compiled" if ours.info.device == "cuda" else "by PyTorch"
    return {
        AUTHORS: lambda: authors_loop(work, models.stock, guidance),
        "diffusers, batched by level": lambda: batched_by_level(
            work, models.stock, guidance, batch
        ),
        "ours, exact": lambda: exact(work, ours),
        f"ours, exact, {otherwise}": lambda: exact(work, models.otherwise),
        "ours, previews": lambda: previews(work, ours),
        "ours, exact, bfloat16": lambda: exact(work, models.half),
        "ours, previews, bfloat16": lambda: previews(work, models.half),
    }


def measure(work: Work, models: Models, repeats: int) -> pd.DataFrame:
    """A row per contender and repeat (schema SPEED)."""
    device, rows = models.ours.info.device, []
    _rendered(work.pairs[:2], work, models.otherwise, 4)  # warm up PyTorch
    for repeat, (name, run) in product(range(repeats), contenders(work, models).items()):
        start_peak(device)
        seconds, taken = timed(run, device)
        rows.append(
            {
                "contender": name,
                "repeat": repeat,
                "seconds": round(seconds, 3),
                "images_per_second": round(len(work.pairs) / seconds, 4),
                "guided_steps": taken,
                "guided_steps_per_second": round(taken / seconds, 1),
                "peak_mebibytes": peak_mebibytes(device),
            }
        )
        click.echo(f"{name}: {seconds:.1f} s for {len(work.pairs)} kept images")
    table = pd.DataFrame(rows)
    reference = table[table["contender"] == AUTHORS].set_index("repeat")["seconds"]
    times = table["repeat"].map(reference) / table["seconds"]
    return table.assign(times_authors=times.round(3))


@click.command(help=__doc__)
@click.option("--architecture", type=click.Choice(["zoo", "sd15"]), default="zoo")
@click.option("--pairs", default=32, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--out", type=Path, default=None, help="[default: benchmarks/speed-ARCHITECTURE.csv]")
def main(architecture: str, pairs: int, repeats: int, out: Path | None) -> None:
    out = out or Path(f"benchmarks/speed-{architecture}.csv")
    with tempfile.TemporaryDirectory() as place:
        folder = Path("zoo/generator") if architecture == "zoo" else sd15(Path(place) / "sd15")
        models = load_models(folder)
    ours = models.ours
    work = bundled_work(pairs) if architecture == "zoo" else noise_work(pairs, ours.info.size)
    table = measure(work, models, repeats)
    write_table(table, out, SPEED)
    facts = machine(ours.info.device) | {"pairs": len(work.pairs)} | shares(work, ours)
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    click.echo(table.groupby("contender")[["images_per_second", "times_authors"]].mean())


if __name__ == "__main__":
    main()
