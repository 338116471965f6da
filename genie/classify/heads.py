"""Linear heads on frozen embeddings; each is fitted by a function with the same signature.

The constants follow the paper: logistic regression with L2 penalty, C = 1, lbfgs and 1000
iterations on L2-normalised features (section 4.1), and a linear SVM for fine-grained data sets
(A.1).
"""

from collections.abc import Callable

import numpy as np

Weights = dict[str, np.ndarray]
"""Arrays by name; a head has the arrays `weight` (c, d) and `bias` (c,)."""

Head = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Weights]
"""A function of embeddings (n, d), class indices (n,), example weights (n,) and a seed."""


def fit_logistic(
    embeddings: np.ndarray, targets: np.ndarray, weights: np.ndarray, seed: int
) -> Weights:
    """Fit multinomial logistic regression."""
    from sklearn.linear_model import LogisticRegression  # slow to import, and not for predictions

    model = LogisticRegression(C=1.0, solver="lbfgs", max_iter=1000)
    model.fit(embeddings, targets, sample_weight=weights)
    return _linear(model.coef_, model.intercept_, two_sided=False)


def fit_svm(embeddings: np.ndarray, targets: np.ndarray, weights: np.ndarray, seed: int) -> Weights:
    """Fit a linear SVM, one-vs-rest."""
    from sklearn.svm import LinearSVC  # slow to import

    model = LinearSVC(C=1.0, random_state=seed, max_iter=10_000)
    model.fit(embeddings, targets, sample_weight=weights)
    return _linear(model.coef_, model.intercept_, two_sided=True)


def fit_prototype(
    embeddings: np.ndarray, targets: np.ndarray, weights: np.ndarray, seed: int
) -> Weights:
    """Fit a nearest-class-mean classifier with Euclidean distance.

    The score z.m - |m|^2 / 2 equals -|z - m|^2 / 2 up to a constant, |z|^2 / 2.
    """
    means = np.stack(
        [
            np.average(embeddings[targets == k], axis=0, weights=weights[targets == k])
            for k in range(targets.max() + 1)
        ]
    )
    return _linear(means, -(means**2).sum(1) / 2, two_sided=False)


def head_probabilities(weights: Weights, embeddings: np.ndarray) -> np.ndarray:
    """Return (n, c) probabilities: the softmax of the head's scores."""
    scores = embeddings @ weights["weight"].T + weights["bias"]
    shifted = np.exp(scores - scores.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _linear(weight: np.ndarray, bias: np.ndarray, *, two_sided: bool) -> Weights:
    """Return weights (c, d) and biases (c,); scikit-learn returns a single row if c = 2."""
    if len(weight) == 1:
        other = -weight if two_sided else np.zeros_like(weight)
        weight = np.concatenate([other, weight])
        bias = np.concatenate([-bias if two_sided else np.zeros_like(bias), bias])
    return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}


HEADS: dict[str, Head] = {
    "logistic": fit_logistic,
    "prototype": fit_prototype,
    "svm": fit_svm,
}
