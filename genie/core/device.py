"""The device that models run on."""

import os

import torch


def default_device() -> str:
    """Return this machine's accelerator ("cuda" or "mps"), or "cpu" if it has none.

    Under a launcher of PyTorch or accelerate, "cuda" is the GPU of this process.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
