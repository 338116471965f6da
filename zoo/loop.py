"""The training loop of all parts: optimiser, learning rate schedule and checkpoints."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

Loss = Callable[[torch.Generator], Tensor]

WARMUP = 200
SAVE_EVERY = 100


def pick_device() -> torch.device:
    """Return the GPU if there is one, otherwise the CPU."""
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
    decay: float = 1.0,
    every: int = 0,
    state: Path,
) -> nn.Module:
    """Minimise `loss` over `model` and return the exponential moving average of its weights.

    With `ema` 0, the average equals the final weights. `loss` draws all random numbers from its
    generator argument, which is seeded by the step alone. A resumed run therefore takes the same
    steps as an uninterrupted one. `stop` ends a run early, after writing its checkpoint. Under
    torchrun, each process computes its `share` of every batch.

    `half` computes the loss in bfloat16, which is faster even on CPUs; GPUs always use bfloat16.
    `decay` is the share of the steps over which the learning rate falls. Every `every` steps, the
    average is also saved as NAME-STEP.safetensors, for learning curves.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    path = state / f"{name}.pt"
    start = _resume(path, model, average, optimizer)
    device = next(model.parameters()).device
    model.train()
    steps_left, quiet = range(start, stop or steps), rank() > 0
    with tqdm(steps_left, desc=name, initial=start, total=steps, disable=quiet) as bar:
        for step in bar:
            _set_rate(optimizer, rate * schedule(step, steps, decay))
            with torch.autocast(device.type, torch.bfloat16, enabled=half or device.type != "cpu"):
                value = loss(torch.Generator().manual_seed(step * processes() + rank()))
            optimizer.zero_grad()
            value.backward()
            _average_gradients(model)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(model)
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == (stop or steps):
                bar.set_postfix(loss=f"{value.item():.4f}")
                if rank() == 0:
                    _save(path, model, average, optimizer, step=step + 1)
            if every and (step + 1) % every == 0 and rank() == 0:
                save_model(average.module, state / f"{name}-{step + 1}.safetensors")
    return average.module.eval()


def attention(device: torch.device) -> list[SDPBackend]:
    """Select attention kernels; on a CPU, the fused kernel has a slow backward pass in bfloat16."""
    plain = [SDPBackend.MATH]
    return plain if device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, *plain]


def processes() -> int:
    """Return the number of processes that train together, which is 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, which is 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(batch: int) -> int:
    """Return the number of examples of a batch that each process computes."""
    return batch // processes()


def _average_gradients(model: nn.Module) -> None:
    """Replace the gradients by their mean over all processes.

    Processes synchronise once per step, whereas threads synchronise once per operation. On cores
    shared with other jobs, processes are therefore faster.
    """
    if processes() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def schedule(step: int, steps: int, decay: float = 1.0) -> float:
    """Return the factor of the learning rate: linear warm-up, then cosine decay to 0.

    With `decay` below 1, the rate stays at its peak until the share `decay` of the steps is left. A
    run can then be extended without a restart, because its first steps do not depend on the total.
    """
    warmup = min(WARMUP, steps // 10 + 1)
    falling = max(0.0, 1 - (1 - step / steps) / decay)
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * falling))


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
    """Load the checkpoint, if there is one, and return its number of steps."""
    if not path.is_file():
        return 0
    saved = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(saved["model"])
    average.load_state_dict(saved["average"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])
