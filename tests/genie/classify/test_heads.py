import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.svm import LinearSVC

from genie.classify.heads import HEADS, head_probabilities


def problem(classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, class indices and weights of the examples, and classes that overlap."""
    random = np.random.default_rng(0)
    targets = np.arange(40) % classes
    z = np.eye(classes, 8)[targets] + 0.5 * random.normal(size=(40, 8))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    return unit.astype(np.float32), targets, random.uniform(0.1, 1, 40)


def queries() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_probabilities_equal_those_of_scikit_learn(classes):
    z, targets, weights = problem(classes)
    theirs = LogisticRegression(C=1.0, max_iter=1000).fit(z, targets, weights)
    ours = head_probabilities(HEADS["logistic"](z, targets, weights, 0), queries())
    assert ours == pytest.approx(theirs.predict_proba(queries()), abs=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_svm_predicts_as_scikit_learns_does(classes):
    z, targets, weights = problem(classes)
    theirs = LinearSVC(C=1.0, max_iter=10_000, random_state=3).fit(z, targets, weights)
    ours = head_probabilities(HEADS["svm"](z, targets, weights, 3), queries())
    assert (ours.argmax(1) == theirs.predict(queries())).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_prototype_predicts_the_nearest_class_mean(classes):
    z, targets, _ = problem(classes)
    theirs = NearestCentroid().fit(z, targets)
    ours = head_probabilities(HEADS["prototype"](z, targets, np.ones(40), 0), queries())
    assert (ours.argmax(1) == theirs.predict(queries())).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("classes", [2, 3])
def test_every_head_gives_a_probability_per_class(head, classes):
    z, targets, weights = problem(classes)
    probabilities = head_probabilities(HEADS[head](z, targets, weights, 0), queries())
    assert probabilities.shape == (200, classes)
    assert probabilities.sum(1) == pytest.approx(np.ones(200), abs=1e-5)
    assert (
        head_probabilities(HEADS[head](z, targets, weights, 0), z).argmax(1) == targets
    ).mean() > 0.7


@pytest.mark.parametrize("head", HEADS)
def test_example_of_half_the_weight_counts_half(head):
    z, targets, _ = problem(3)
    once = HEADS[head](z, targets, np.ones(40), 0)
    twice = HEADS[head](np.tile(z, (2, 1)), np.tile(targets, 2), np.full(80, 0.5), 0)
    assert twice["weight"] == pytest.approx(once["weight"], abs=1e-3)
    other = HEADS[head](z, targets, np.where(targets == 0, 0.1, 1), 0)
    if head != "prototype":  # which only weighs examples within a class
        assert other["weight"] != pytest.approx(once["weight"], abs=1e-3)


def test_example_without_weight_does_not_move_a_prototype():
    z, targets, _ = problem(3)
    wrong = np.concatenate([targets, (targets + 1) % 3])
    weights = np.repeat([1.0, 0.0], 40)
    alone = HEADS["prototype"](z, targets, np.ones(40), 0)
    both = HEADS["prototype"](np.tile(z, (2, 1)), wrong, weights, 0)
    assert both["weight"] == pytest.approx(alone["weight"])
