"""The LPIPS distance compares as the published formula says; only arrays are unpickled."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d, normalize

from zoo.perceptual import SCALE, SHIFT, STAGES, Lpips, _arrays, convert


def flax_tree() -> dict:
    """Random weights in the package's layout, kernels (h, w, in, out)."""
    draw, tree, number = np.random.default_rng(0), {"VGG16_0": {}}, 0
    for stage, widths in enumerate(STAGES):
        for before, after in zip(widths, widths[1:], strict=False):  # noqa: RUF007
            kernel = draw.normal(0, (2 / (9 * before)) ** 0.5, (3, 3, before, after))
            layer = {"kernel": kernel, "bias": draw.normal(0, 0.1, after)}
            tree["VGG16_0"][f"Conv_{number}"] = {k: v.astype("f4") for k, v in layer.items()}
            number += 1
        head = draw.uniform(0, 1, (1, 1, widths[-1], 1)).astype("f4")
        tree[f"NetLinLayer_{stage}"] = {"Conv_0": {"kernel": head}}
    return tree


def reference(tree: dict, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Zhang et al. 2018, eq. 1, straight from the tree."""
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
    a, b, total, number = (first - shift) / scale, (second - shift) / scale, 0.0, 0
    for stage, widths in enumerate(STAGES):
        if stage:
            a, b = max_pool2d(a, 2), max_pool2d(b, 2)
        for _ in widths[1:]:
            layer = tree["VGG16_0"][f"Conv_{number}"]
            kernel = torch.from_numpy(layer["kernel"]).permute(3, 2, 0, 1)
            bias = torch.from_numpy(layer["bias"])
            a, b = (conv2d(x, kernel, bias, padding=1).relu() for x in (a, b))
            number += 1
        head = torch.from_numpy(tree[f"NetLinLayer_{stage}"]["Conv_0"]["kernel"])[0, 0]
        gap = (normalize(a, dim=1) - normalize(b, dim=1)).square()
        total = total + torch.einsum("nchw,co->nhw", gap, head).mean((1, 2))
    return total


def test_distance_is_the_published_formula() -> None:
    tree = flax_tree()
    first, second = torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    lpips = Lpips(convert(tree))
    assert torch.allclose(lpips(first, second), reference(tree, first, second), rtol=1e-4)
    assert lpips(first, first).abs().max() == 0


def test_pickle_of_anything_but_arrays_is_refused() -> None:
    assert _arrays(pickle.dumps({"a": np.arange(3)}))["a"].tolist() == [0, 1, 2]
    with pytest.raises(pickle.UnpicklingError, match=r"must hold arrays alone, but has .*system"):
        _arrays(b"cos\nsystem\n(S'true'\ntR.")
