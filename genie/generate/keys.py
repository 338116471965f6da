"""Cache keys of requests, under which the store holds their images."""

import json

from genie.generate.described import Described
from genie.generate.model import Generator
from genie.generate.noise import coincides, denoising_steps, noise_seed
from genie.generate.request import Request
from genie.keyed import digest

RENDER_VERSION = 1  # increase it whenever a change in the renderer changes pixels


def request_key(
    request: Request, generator: Generator | Described, *, steps: int, guidance_scale: float
) -> str:
    """Return the SHA-256 (hex) of all that determines a request's pixels, and of nothing else.

    The source enters by its content. r enters by its number of denoising steps, so 0.7 and
    0.7000000000000001 share a key, and by its value where it lies between two steps. The target's
    label enters through the prompt and the noise. Device, compiler and batch size change pixels
    only by rounding and are left out.
    """
    parts = {
        "source": request.source_id,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "denoised": denoising_steps(request.r, steps),
        "steps": steps,
        "guidance_scale": float(guidance_scale),
        "scheduler": generator.scheduler,
        "noise": noise_seed(request),
        "size": generator.size,
        "generator": generator.fingerprint,
        "dtype": generator.precision,
        "version": RENDER_VERSION,
    }
    if generator.fast and not coincides(request.r, steps):
        parts["r"] = round(request.r, 12)
    return digest(json.dumps(parts, sort_keys=True)).hex()
