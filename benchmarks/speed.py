"""The speed of GeNIe-Ada with seven renderers on the same pairs, in one run on one machine.

    python -m benchmarks.speed                              # the bundled generator, 32 pairs
    python -m benchmarks.speed --architecture sd15          # Stable Diffusion 1.5's, random weights

The contenders are:

- the authors' loop, which renders one image at a time and encodes source and prompt anew for each
- diffusers' pipeline, which renders the images of a level in batches
- our exact search (on a CPU with OpenVINO, whose preparation counts in the first repeat)
- our exact search with PyTorch on a CPU, or compiled on a GPU
- our preview search
- our exact search and our preview search in bfloat16

An exact search renders five levels for every pair. A preview search renders these levels in few
steps, then renders one level in full. For every tenth pair, it renders three more levels in full: a
tenth is the share of unclear pairs with the default parameters.

Outputs: a CSV file, and a JSON file with the machine, the versions and, for our exact search, the
share of time outside the denoiser and the share of the machine's peak speed inside it.
"""

import json
import platform
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.bundled import GENERATOR, RATIOS, SIDE, bundled_requests, random_model
from genie.choose.search import PREVIEW_STEPS
from genie.core.device import default_device
from genie.data.images import decode_image
from genie.plan.forecast import guided_steps
from genie.plan.levels import strength
from genie.plan.requests import Request
from genie.render.batches import batches
from genie.render.model import Generator, load_generator
from genie.render.model_info import RenderSettings
from genie.render.stable_diffusion import StableDiffusionRenderer

AUTHORS = "authors' loop"


@dataclass(frozen=True)
class Work:
    """The requests for all levels of some pairs, and the number of denoising `steps`."""

    requests: Sequence[Request]
    sources: Mapping[str, bytes]
    steps: int = 50  # the paper's

    @property
    def pairs(self) -> Sequence[Request]:
        """The request for the lowest level of every pair."""
        return self.requests[:: len(RATIOS)]


def by_diffusers(work: Work, pipeline: Any, guidance: float, batch: int) -> int:
    """Render all levels with diffusers' pipeline, batch by batch; return the guided steps."""
    for r, start in product(RATIOS, range(0, len(work.pairs), batch)):
        part = work.pairs[start : start + batch]
        pipeline(
            prompt=[request.prompt for request in part],
            image=[decode_image(work.sources[str(request.source_id)]) for request in part],
            strength=strength(r, work.steps),
            num_inference_steps=work.steps,
            guidance_scale=guidance,
        )
    return guided_steps(work.requests, work.steps)


def exact(work: Work, generator: Generator) -> int:
    """Render all levels as PIL images with our renderer; return the guided steps."""
    render, size = StableDiffusionRenderer(generator), generator.info.batch_size
    for batch in batches(work.requests, work.steps, size, mixed=generator.info.starts_anywhere):
        render(batch, work.sources, work.steps, size)
    return guided_steps(work.requests, work.steps)


def previews(work: Work, generator: Generator) -> int:
    """Render the images of a preview search; return the guided steps.

    All levels are rendered as previews. Then one level of every pair (r = 0.7, the mean) and three
    more of every tenth pair are rendered in full.
    """
    final = [replace(request, r=0.7) for request in work.pairs]
    final += [replace(request, r=r) for request in work.pairs[5::10] for r in (0.5, 0.6, 0.8)]
    quick = exact(replace(work, steps=PREVIEW_STEPS), generator)
    return quick + exact(replace(work, requests=final), generator)


def contenders(work: Work, folder: Path, device: str) -> dict[str, Callable[[], int]]:
    """Load a model with Stable Diffusion's layout; return the functions to time, by name.

    Each function returns its guided steps.
    """
    gpu = device == "cuda"
    ours, half = load_generator(folder), load_generator(folder, RenderSettings(dtype="bfloat16"))
    otherwise = load_generator(folder, RenderSettings(compile=gpu))
    exact(replace(work, requests=work.pairs[:2], steps=4), otherwise)  # warm up PyTorch
    stock: Any = StableDiffusionImg2ImgPipeline.from_pretrained(folder, dtype=ours.pipeline.dtype)
    stock.scheduler = DPMSolverMultistepScheduler.from_config(  # the solver of the paper
        stock.scheduler.config, timestep_spacing="linspace"
    )
    stock.set_progress_bar_config(disable=True)
    stock.to(device)
    scale, size = ours.info.guidance_scale, ours.info.batch_size
    return {
        AUTHORS: lambda: by_diffusers(work, stock, scale, 1),
        "diffusers, batched by level": lambda: by_diffusers(work, stock, scale, size),
        "ours, exact": lambda: exact(work, ours),
        f"ours, exact, {'compiled' if gpu else 'by PyTorch'}": lambda: exact(work, otherwise),
        "ours, previews": lambda: previews(work, ours),
        "ours, exact, bfloat16": lambda: exact(work, half),
        "ours, previews, bfloat16": lambda: previews(work, half),
    }


def measure(work: Work, folder: Path, repeats: int) -> pd.DataFrame:
    """Return one row per contender and repeat."""
    device, pairs, rows = default_device(), len(work.pairs), []
    for repeat, (name, run) in product(range(repeats), contenders(work, folder, device).items()):
        start_peak(device)
        seconds, taken = timed(run, device)
        row = {"contender": name, "repeat": repeat, "seconds": round(seconds, 3)}
        row |= {"images_per_second": round(pairs / seconds, 4), "guided_steps": taken}
        row |= {"guided_steps_per_second": round(taken / seconds, 1)}
        rows.append(row | {"peak_mebibytes": peak_mebibytes(device)})
        click.echo(f"{name}: {seconds:.1f} s for {pairs} kept images")
    table = pd.DataFrame(rows)
    reference = table[table["contender"] == AUTHORS].set_index("repeat")["seconds"]
    return table.assign(times_authors=(table["repeat"].map(reference) / table["seconds"]).round(3))


def timed(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Return the seconds until a call's work on the device is done, and the call's result."""
    start = time.perf_counter()
    returned = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, returned


def start_peak(device: str) -> None:
    """Reset the peak memory."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").is_file():
        Path("/proc/self/clear_refs").write_text("5")


def peak_mebibytes(device: str) -> float:
    """Return the peak memory of the GPU or, without one, of this process; NaN if unknown."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return round(int(found[1]) / 1024) if found else float("nan")


def shares(work: Work, generator: Generator) -> dict[str, float]:
    """Measure the denoiser's share of the time, and its speed, in our exact search.

    Peak speed is the best of ten large matrix products.
    """
    inside: list[float] = []
    samples: list[int] = []
    plain, device = generator.denoiser, generator.info.device
    assert plain is not None

    def clocked(*inputs: torch.Tensor) -> torch.Tensor:
        if device == "cuda":
            torch.cuda.synchronize()  # earlier work is not the denoiser's
        seconds, predicted = timed(lambda: plain(*inputs), device)
        inside.append(seconds)
        samples.append(len(inputs[0]))
        return predicted

    exact(work, generator)  # prepares the denoiser
    seconds, _ = timed(lambda: exact(work, replace(generator, denoiser=clocked)), device)
    side = 8192 if device == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=generator.dtype)
    peak = 2 * side**3 / min(timed(lambda: a @ a, device)[0] for _ in range(10)) / 1e12
    reached = sum(samples) * sample_tflop(generator) / sum(inside)
    return {
        "matrix_product_tflops": round(peak, 3),
        "denoiser_tflops": round(reached, 3),
        "share_of_peak": round(reached / peak, 3),
        "share_outside_denoiser": round(1 - sum(inside) / seconds, 3),
    }


def sample_tflop(generator: Generator) -> float:
    """Return the TFLOP of a sample's pass through the denoiser; a guided step takes two passes."""
    device, dtype = generator.info.device, generator.pipeline.dtype
    side = generator.info.size // generator.pipeline.vae_scale_factor
    prompt, _ = generator.pipeline.encode_prompt("", device, 1, do_classifier_free_guidance=False)
    latents = torch.zeros(1, 4, side, side, device=device, dtype=dtype)
    step = torch.zeros(1, dtype=torch.int64, device=device)
    plain = sdpa_kernel(SDPBackend.MATH)  # the counter does not know every fused kernel
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        generator.pipeline.unet(latents, step, encoder_hidden_states=prompt)
    return counter.get_total_flops() / 1e12


def sd15(folder: Path) -> Path:
    """Save a model with the architecture of Stable Diffusion 1.5 and random weights."""
    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    return random_model(
        folder,
        tokenizer=CLIPTokenizer.from_pretrained(GENERATOR / "tokenizer", model_max_length=77),
        text_encoder=CLIPTextModel(text),
        vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
        unet={"cross_attention_dim": 768},
    )


def machine(device: str) -> dict[str, str | int]:
    """Return the device, threads and versions, on which the measured speeds depend."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return {
        "device": device,
        "name": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "diffusers", "transformers", "openvino")},
    }


@click.command(help=__doc__)
@click.option("--architecture", type=click.Choice(["zoo", "sd15"]), default="zoo")
@click.option("--pairs", default=32, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--out", type=Path, default=None, help="[default: benchmarks/speed-ARCHITECTURE.csv]")
def main(architecture: str, pairs: int, repeats: int, out: Path | None) -> None:
    out = out or Path(f"benchmarks/speed-{architecture}.csv")
    embedded = architecture == "zoo"
    work = Work(*bundled_requests(pairs * len(RATIOS), SIDE if embedded else 512))
    with tempfile.TemporaryDirectory() as place:
        folder = GENERATOR if embedded else sd15(Path(place))
        table, ours = measure(work, folder, repeats), load_generator(folder)
    table.to_csv(out, index=False, lineterminator="\n")
    facts = machine(ours.info.device) | {"pairs": len(work.pairs)} | shares(work, ours)
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    click.echo(table.groupby("contender")[["images_per_second", "times_authors"]].mean())


if __name__ == "__main__":
    main()
