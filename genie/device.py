"""The device that models run on."""

import torch


def default_device() -> str:
    """Return this machine's accelerator ("cuda" or "mps"), or "cpu" if it has none."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
