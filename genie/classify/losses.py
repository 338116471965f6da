"""Losses for fine-tuning; all of these functions have the same signature."""

from collections.abc import Callable

import torch

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""A function of logits (B, c), class indices (B,) and class priors (c,); returns losses (B,)."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy; `prior` is not used."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def logit_adjusted(logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of z + log π (Menon et al. 2021, eq. 10, τ = 1)."""
    return torch.nn.functional.cross_entropy(logits + prior.log(), labels, reduction="none")


def balanced_bce(logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Return Bal-BCE, the binary cross-entropy of z + log π - log(1 - π) (LiVT, eq. 13).

    The loss is summed over classes. Predictions use the unshifted logits, so rare classes are not
    at a disadvantage.
    """
    shifted = logits + prior.log() - (-prior).log1p()
    targets = torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return torch.nn.functional.binary_cross_entropy_with_logits(
        shifted, targets, reduction="none"
    ).sum(1)


LOSSES: dict[str, Loss] = {
    "bal-bce": balanced_bce,
    "cross-entropy": cross_entropy,
    "logit-adjustment": logit_adjusted,
}
