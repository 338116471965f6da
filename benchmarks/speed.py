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
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path

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

from genie.generator import Generator, load_generator
from genie.noise import denoising_steps, levels, strength
from genie.records import Request, decode_png, encode_png, image_id, read_images
from genie.rendering import default_batch_size, render

STEPS, PREVIEW_STEPS = 50, 10
RATIOS = levels(0.5, 0.9, 5)
PACKAGES = ("torch", "diffusers", "transformers", "openvino")
COLUMNS = (
    *("contender", "repeat", "seconds", "images_per_second", "guided_steps"),
    *("guided_steps_per_second", "peak_mebibytes", "times_authors"),
)


def bundled_pairs(count: int) -> tuple[list[Request], dict[str, bytes]]:
    """`count` requests at r = 0.5, of images of each class to each other class, and the images."""
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
    return list(islice(chosen, count)), sources


def noise_pairs(count: int, size: int) -> tuple[list[Request], dict[str, bytes]]:
    """`count` requests from random pictures: for weights that know no pictures anyway."""
    random = np.random.default_rng(0)
    pictures = [
        Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)) for _ in range(count)
    ]
    sources = {image_id(p): encode_png(p) for p in pictures}
    return [_request(i, "cat", "dog") for i in sources], sources


def _request(source: str, label: str, target: str) -> Request:
    return Request(source, label, target, f"a photo of a {target}", "", RATIOS[0], 0, 0)


def at(request: Request, r: float) -> Request:
    """The same request at another noise ratio."""
    return Request(**{**request.__dict__, "r": r})


def stock_pipeline(folder: Path, generator: Generator) -> StableDiffusionImg2ImgPipeline:
    """diffusers' own pipeline with the solver of the paper, on the same device."""
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        folder, dtype=generator.pipeline.dtype, safety_checker=None, use_safetensors=True
    )
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="linspace"
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(generator.device)


def authors_loop(
    pairs: Sequence[Request], sources: dict[str, bytes], pipeline: StableDiffusionImg2ImgPipeline,
    guidance: float,
) -> int:  # fmt: skip
    """One image at a time, every level from scratch; guided steps taken."""
    for request, r in product(pairs, RATIOS):
        pipeline(
            prompt=request.prompt,
            image=decode_png(sources[str(request.source_id)]),
            strength=strength(r, STEPS),
            num_inference_steps=STEPS,
            guidance_scale=guidance,
        )
    return len(pairs) * sum(denoising_steps(r, STEPS) for r in RATIOS)


def batched_by_level(
    pairs: Sequence[Request], sources: dict[str, bytes], pipeline: StableDiffusionImg2ImgPipeline,
    guidance: float, batch: int,
) -> int:  # fmt: skip
    """diffusers' pipeline, all pairs of a level in batches of `batch`."""
    for r in RATIOS:
        for start in range(0, len(pairs), batch):
            part = pairs[start : start + batch]
            pipeline(
                prompt=[request.prompt for request in part],
                image=[decode_png(sources[str(request.source_id)]) for request in part],
                strength=strength(r, STEPS),
                num_inference_steps=STEPS,
                guidance_scale=guidance,
            )
    return len(pairs) * sum(denoising_steps(r, STEPS) for r in RATIOS)


def ours(
    pairs: Sequence[Request], sources: dict[str, bytes], generator: Generator, *, preview: bool
) -> int:
    """Our renderer: all levels in full, or all as previews and one in full (r = 0.7, the mean)."""
    steps = PREVIEW_STEPS if preview else STEPS
    every = [at(request, r) for request in pairs for r in RATIOS]
    list(render(every, generator, sources=sources, steps=steps))
    taken = sum(denoising_steps(q.r, steps) for q in every)
    if preview:
        final = [at(request, 0.7) for request in pairs]
        final += [at(request, r) for request in pairs[5::10] for r in (0.5, 0.6, 0.8)]
        list(render(final, generator, sources=sources, steps=STEPS))
        taken += sum(denoising_steps(q.r, STEPS) for q in final)
    return taken


def sd15(folder: Path) -> Path:
    """A Stable Diffusion 1.5 folder with random weights: its cost without its pictures."""
    torch.manual_seed(0)
    words = CLIPTokenizer.from_pretrained("zoo/generator/tokenizer", model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, projection_dim=768,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
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
    seconds = min(timed(lambda: a @ a, device) for _ in range(10))
    return 2 * side**3 / seconds / 1e12


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds that `work` takes, the device's queue included."""
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def sample_tflop(generator: Generator) -> float:
    """TFLOP of one sample's pass through the denoiser; a guided step takes two."""
    side = generator.size // generator.pipeline.vae_scale_factor
    prompt, _ = generator.pipeline.encode_prompt(
        "", generator.device, 1, do_classifier_free_guidance=False
    )
    dtype = generator.pipeline.dtype
    latents = torch.zeros(1, 4, side, side, device=generator.device, dtype=dtype)
    step = torch.zeros(1, dtype=torch.int64, device=generator.device)
    # attention as plain products: the counter does not know every fused kernel
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        generator.pipeline.unet(latents, step, encoder_hidden_states=prompt)
    return counter.get_total_flops() / 1e12


def shares(
    pairs: Sequence[Request], sources: dict[str, bytes], generator: Generator
) -> dict[str, float]:
    """Where our exact renderer's time goes, from a run with a clock around the denoiser."""
    inside: list[float] = []
    plain = generator.denoiser
    assert plain is not None

    def clocked(*inputs: torch.Tensor) -> torch.Tensor:
        predicted: list[torch.Tensor] = []
        if generator.device == "cuda":
            torch.cuda.synchronize()  # what was queued before is not the denoiser's
        inside.append(timed(lambda: predicted.append(plain(*inputs)), generator.device))
        samples.append(len(inputs[0]))
        return predicted[0]

    samples: list[int] = []
    watched = replace(generator, denoiser=clocked)
    seconds = timed(lambda: ours(pairs, sources, watched, preview=False), generator.device)
    peak = matrix_peak(generator.device, generator.dtype)
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


@click.command(help=__doc__)
@click.option("--architecture", type=click.Choice(["zoo", "sd15"]), default="zoo")
@click.option("--pairs", default=32, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--out", type=Path, default=None, help="[default: benchmarks/speed-ARCHITECTURE.csv]")
def main(architecture: str, pairs: int, repeats: int, out: Path | None) -> None:
    out = out or Path(f"benchmarks/speed-{architecture}.csv")
    with tempfile.TemporaryDirectory() as place:
        folder = Path("zoo/generator") if architecture == "zoo" else sd15(Path(place) / "sd15")
        generator = load_generator(folder)
        found, sources = (
            bundled_pairs(pairs) if architecture == "zoo" else noise_pairs(pairs, generator.size)
        )
        on_gpu = generator.device == "cuda"
        otherwise = load_generator(folder, compile=on_gpu)
        half = load_generator(folder, dtype=torch.bfloat16)
        stock = stock_pipeline(folder, generator)
    guidance = generator.guidance_scale
    batch = default_batch_size(generator)
    contenders: dict[str, Callable[[], int]] = {
        "authors' loop": lambda: authors_loop(found, sources, stock, guidance),
        "diffusers, batched by level": lambda: batched_by_level(
            found, sources, stock, guidance, batch
        ),
        "ours, exact": lambda: ours(found, sources, generator, preview=False),
        f"ours, exact, {'compiled' if on_gpu else 'by PyTorch'}": lambda: ours(
            found, sources, otherwise, preview=False
        ),
        "ours, previews": lambda: ours(found, sources, generator, preview=True),
        "ours, exact, bfloat16": lambda: ours(found, sources, half, preview=False),
        "ours, previews, bfloat16": lambda: ours(found, sources, half, preview=True),
    }
    rows = []
    list(render(found[:2], otherwise, sources=sources, steps=4))  # warm up PyTorch
    for repeat, (name, work) in product(range(repeats), contenders.items()):
        taken: list[int] = []
        start_peak(generator.device)
        seconds = timed(lambda work=work, taken=taken: taken.append(work()), generator.device)
        rows.append({"contender": name, "repeat": repeat, "seconds": round(seconds, 3),
                     "images_per_second": round(len(found) / seconds, 4),
                     "guided_steps": taken[0],
                     "guided_steps_per_second": round(taken[0] / seconds, 1),
                     "peak_mebibytes": peak_mebibytes(generator.device)})  # fmt: skip
        click.echo(f"{name}: {seconds:.1f} s for {len(found)} kept images")
    table = pd.DataFrame(rows)
    reference = table[table["contender"] == "authors' loop"].set_index("repeat")["seconds"]
    table["times_authors"] = (table["repeat"].map(reference) / table["seconds"]).round(3)
    table.to_csv(out, index=False, columns=list(COLUMNS), lineterminator="\n")
    facts = machine(generator.device) | {"pairs": len(found)} | shares(found, sources, generator)
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    click.echo(table.groupby("contender")[["images_per_second", "times_authors"]].mean())


if __name__ == "__main__":
    main()
