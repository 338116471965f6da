from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from genie.classify.classifier import FINETUNE, fit, out_of_fold, predict, predict_proba
from genie.classify.examples import Examples, join, take
from genie.classify.heads import HEADS
from genie.core.errors import InvalidValueError


@pytest.mark.parametrize("head", HEADS)
def test_separable_classes_are_predicted(head, blobs, settings):
    examples = blobs(3)
    model = fit(examples, replace(settings, head=head))
    probabilities = predict_proba(model, examples)
    assert model.classes == ("class 0", "class 1", "class 2")
    assert probabilities.shape == (18, 3)
    assert probabilities.sum(1) == pytest.approx(np.ones(18), abs=1e-5)
    assert list(predict(model, examples)) == examples.labels


@pytest.mark.parametrize("head", HEADS)
def test_columns_are_the_sorted_classes_in_any_order_of_the_examples(head, blobs, settings):
    examples = blobs(3)
    backwards = take(examples, range(17, -1, -1))
    model = fit(backwards, replace(settings, head=head))
    assert model.classes == ("class 0", "class 1", "class 2")
    assert list(predict(model, examples)) == examples.labels


def test_two_examples_of_half_weight_equal_one_example(blobs, settings):
    examples = blobs(2)
    half = replace(examples, weights=np.full(12, 0.5))
    whole = fit(examples, replace(settings, head="logistic"))
    doubled = fit(join(half, half), replace(settings, head="logistic"))
    expected = predict_proba(whole, examples)
    assert predict_proba(doubled, examples) == pytest.approx(expected, abs=1e-3)


def test_one_class_is_refused(blobs, settings):
    with pytest.raises(InvalidValueError, match="at least two classes"):
        fit(blobs(1), replace(settings, head="logistic"))


def test_custom_head_is_one_dictionary_entry(monkeypatch, blobs, settings):
    def last_class(embeddings, targets, weights, seed):
        assert weights.tolist() == [1.0] * 18
        assert seed == settings.seed
        bias = np.arange(targets.max() + 1, dtype=np.float32)
        return {"weight": np.zeros((len(bias), embeddings.shape[1]), np.float32), "bias": bias}

    monkeypatch.setitem(HEADS, "last class", last_class)
    model = fit(blobs(3), replace(settings, head="last class"))
    assert model.head == "last class"
    assert set(predict(model, blobs(3))) == {"class 2"}


# Out of fold


def memorising(embeddings, targets, weights, seed):
    """A head that is certain of the examples it has seen and knows nothing of any other.

    Where every example has an axis of its own, its label depends on nothing but itself.
    """
    weight = np.zeros((targets.max() + 1, embeddings.shape[1]))
    np.add.at(weight, targets, 100 * embeddings)
    return {"weight": weight, "bias": np.zeros(len(weight))}


def axes(labels: list[str]) -> Examples:
    return Examples([None] * len(labels), np.eye(len(labels)), labels)


def remembered(probabilities: np.ndarray) -> int:
    """How many examples their classifier had seen: of those it is certain."""
    return int((probabilities.max(1) > 0.99).sum())


def dealt(examples: Examples, head: str, settings, *, leaked=()) -> np.ndarray:
    """Out-of-fold probabilities by a plain loop; all training sets have the leaked rows."""
    count = {label: 0 for label in examples.labels}
    fold = []
    for label in examples.labels:
        fold.append(count[label] % 5)
        count[label] += 1
    found = np.zeros((len(fold), len(count)))
    for i, own in enumerate(fold):
        rows = [j for j, other in enumerate(fold) if other != own or j in leaked]
        kept = take(examples, rows)
        sizes = Counter(kept.labels)  # all classes count the same
        weights = np.array([len(rows) / len(sizes) / sizes[label] for label in kept.labels])
        model = fit(replace(kept, weights=weights), replace(settings, head=head))
        found[i] = predict_proba(model, take(examples, [i]))[0]
    return found


def test_out_of_fold_never_trains_on_the_example_that_it_predicts(monkeypatch, settings):
    monkeypatch.setitem(HEADS, "memorising", memorising)
    examples = axes([f"class {k}" for k in np.random.default_rng(0).integers(0, 2, 40)])
    held_out = out_of_fold(examples, replace(settings, head="memorising"))
    assert remembered(held_out) == 0
    assert held_out == pytest.approx(np.full((40, 2), 0.5))
    for leaked in ([], [7], range(40)):  # what the same check says of a loop that leaks
        assert remembered(dealt(examples, "memorising", settings, leaked=leaked)) == len(leaked)


@pytest.mark.parametrize("head", ["logistic", "prototype"])
def test_out_of_fold_agrees_with_a_plain_loop(head, blobs, settings):
    examples = blobs(3)
    expected = dealt(examples, head, settings)
    assert out_of_fold(examples, replace(settings, head=head)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_out_of_fold_trains_on_all_other_folds(monkeypatch, settings, folds):
    sizes = []

    def counting(embeddings, targets, weights, seed):
        sizes.append(len(targets))
        return memorising(embeddings, targets, weights, seed)

    monkeypatch.setitem(HEADS, "counting", counting)
    out_of_fold(axes(["a"] * 30 + ["b"] * 30), replace(settings, head="counting"), folds=folds)
    assert sizes == [60 - 60 // folds] * folds


@pytest.mark.parametrize("head", HEADS)
def test_out_of_fold_predicts_separable_classes(head, blobs, settings):
    examples = blobs(3)
    probabilities = out_of_fold(examples, replace(settings, head=head))
    classes = sorted(set(examples.labels))
    assert [classes[k] for k in probabilities.argmax(1)] == examples.labels


def test_logistic_regression_replaces_networks_out_of_fold(blobs, settings):
    examples = blobs(3)
    assert (
        out_of_fold(examples, replace(settings, head=FINETUNE))
        == out_of_fold(examples, replace(settings, head="logistic"))
    ).all()


def test_out_of_fold_probability_is_zero_for_a_class_absent_from_training(blobs, settings):
    single = blobs(3, each=1)  # one fold holds everything: nothing is left to train on
    assert (out_of_fold(single, replace(settings, head="prototype"), folds=2) == 0).all()
    rare = take(blobs(3, each=4), [0, 1, 2, 3, 4, 5, 6, 7, 8])  # one image of class 2
    held_out = out_of_fold(rare, replace(settings, head="prototype"), folds=2)
    assert held_out[8, 2] == 0
    assert held_out.sum(1) == pytest.approx(np.ones(9))


def test_out_of_fold_predictions_do_not_favour_large_classes(settings):
    """Overlapping classes of 60 and 6 images: without weights, the small one seems to be large."""
    random = np.random.default_rng(0)
    labels = ["large"] * 60 + ["small"] * 6
    z = random.normal(size=(66, 8)) + 0.8 * np.eye(2, 8)[[0] * 60 + [1] * 6]
    examples = Examples([None] * 66, z / np.linalg.norm(z, axis=1)[:, None], labels)
    mistaken = out_of_fold(examples, replace(settings, head="logistic"))
    rows = np.array(labels) == "small"
    fair = LogisticRegression(max_iter=1000, class_weight="balanced")
    expected = cross_val_predict(fair, examples.embeddings, labels, cv=5, method="predict_proba")
    plain = cross_val_predict(
        LogisticRegression(max_iter=1000), examples.embeddings, labels, cv=5, method="predict_proba"
    )
    assert mistaken[rows, 0].mean() == pytest.approx(expected[rows, 0].mean(), abs=0.05)
    assert plain[rows, 0].mean() > 0.8 > 0.6 > mistaken[rows, 0].mean()
