"""The device that models run on."""

import os

import torch

from genie.core.errors import InvalidValueError, one_line


def default_device() -> str:
    """Return this machine's accelerator ("cuda" or "mps"), or "cpu" if it has none.

    Under `torchrun` or `accelerate launch`, "cuda" is the GPU of this process.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def require_device(device: str | None) -> None:
    """Raise InvalidValueError unless the device is None or one that torch can use here."""
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown, not compiled in or not present
        raise InvalidValueError(
            f"must be a device that torch can use here, but: {one_line(error)[:150]}",
            argument="device",
            value=device,
            remedy="leave it out for the default",
        ) from error
