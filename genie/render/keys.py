"""Cache keys of requests, under which the store holds their images."""

import json

from genie.core.seeding import digest
from genie.plan.levels import coincides, denoising_steps
from genie.plan.requests import Request, noise_seed
from genie.render.model_info import ModelInfo

RENDER_VERSION = 1  # increase it whenever a change in the renderer changes pixels


def request_key(request: Request, info: ModelInfo, *, steps: int) -> str:
    """Return the SHA-256 (hex) of everything that determines a request's pixels.

    The source is hashed by its content. r is hashed as its number of denoising steps, so 0.7 and
    0.7000000000000001 give the same key. If r lies between two steps, its value is hashed as well.
    The target's label is included through the prompt and the noise. The device, compiler and batch
    size change pixels only by rounding and are not hashed.
    """
    parts = {
        "source": request.source_id,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "denoised": denoising_steps(request.r, steps),
        "steps": steps,
        "guidance_scale": float(info.guidance_scale),
        "scheduler": info.scheduler,
        "noise": noise_seed(request),
        "size": info.size,
        "generator": info.fingerprint,
        "dtype": info.precision,
        "version": RENDER_VERSION,
    }
    if info.starts_anywhere and not coincides(request.r, steps):
        parts["r"] = round(request.r, 12)
    return digest(json.dumps(parts, sort_keys=True)).hex()
