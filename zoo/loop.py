"""The training loop of all parts: optimiser, learning rate schedule and checkpoints."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

Loss = Callable[[torch.Generator], Tensor]

STATE = Path(".genie/zoo")
WARMUP = 200
SAVE_EVERY = 500


def pick_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: nn.Module,
    loss: Loss,
    *,
    name: str,
    steps: int,
    rate: float,
    ema: float = 0.0,
    half: bool = False,
    stop: int | None = None,
    state: Path = STATE,
) -> nn.Module:
    """Minimise `loss` over `model` and return the exponential moving average of its weights.

    With `ema` 0, the average is the last weights. `loss` takes all its randomness from the
    generator it is given, which is seeded by the step alone. A resumed run therefore takes the same
    steps as an uninterrupted one. `stop` ends a run early, after writing its checkpoint. `half`
    computes the loss in bfloat16, which is faster for the autoencoder even on CPUs. GPUs always
    compute in bfloat16.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    path = state / f"{name}.pt"
    start = _resume(path, model, average, optimizer)
    device = next(model.parameters()).device
    model.train()
    with tqdm(range(start, stop or steps), desc=name, initial=start, total=steps) as bar:
        for step in bar:
            _set_rate(optimizer, rate * schedule(step, steps))
            with torch.autocast(device.type, torch.bfloat16, enabled=half or device.type != "cpu"):
                value = loss(torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(model)
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == (stop or steps):
                bar.set_postfix(loss=f"{value.item():.4f}")
                _save(path, model, average, optimizer, step=step + 1)
    return average.module.eval()


def schedule(step: int, steps: int) -> float:
    """Return the factor of the learning rate: linear warm-up, then cosine decay to 0."""
    warmup = min(WARMUP, steps // 10 + 1)
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _save(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    parts = {"model": model, "average": average, "optimizer": optimizer}
    torch.save({"step": step} | {k: v.state_dict() for k, v in parts.items()}, partial)
    partial.replace(path)


def _resume(
    path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Load the checkpoint, if there is one, and return the number of steps it has taken."""
    if not path.is_file():
        return 0
    saved = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(saved["model"])
    average.load_state_dict(saved["average"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])
