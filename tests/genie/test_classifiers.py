import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from transformers import ViTConfig, ViTModel

from genie.classifiers import (
    LOSSES,
    Examples,
    TrainingSettings,
    fit,
    join,
    load,
    out_of_fold,
    predict_proba,
    save,
)
from genie.errors import GenieError

SETTINGS = TrainingSettings(
    Path("zoo/backbone"),
    pretrained=False,
    steps=30,
    batch_size=16,
    learning_rate=2e-3,
    loss="cross-entropy",
    seed=0,
)


def blobs(*, classes: int, each: int = 6) -> Examples:
    """Unit vectors around one axis per class, with grey pictures as bright as the class."""
    random = np.random.default_rng(0)
    labels = [f"class {k}" for k in range(classes) for _ in range(each)]
    z = np.repeat(np.eye(classes, 8), each, axis=0) + 0.1 * random.normal(size=(len(labels), 8))
    images = [
        Image.new("RGB", (32, 32), (40 + 60 * k,) * 3) for k in range(classes) for _ in range(each)
    ]
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    return Examples(images, z.astype(np.float32), labels)


@pytest.mark.parametrize("head", ["logistic", "svm", "prototype"])
@pytest.mark.parametrize("classes", [2, 3])
def test_separable_classes_are_told_apart(head, classes):
    examples = blobs(classes=classes)
    model = fit(head, examples, settings=SETTINGS)
    probabilities = predict_proba(model, examples, settings=SETTINGS)
    assert probabilities.sum(1) == pytest.approx(np.ones(len(probabilities)))
    assert [model.classes[k] for k in probabilities.argmax(1)] == examples.labels


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_probabilities_are_scikit_learns(classes):
    examples = blobs(classes=classes)
    theirs = LogisticRegression(C=1.0, max_iter=1000).fit(examples.embeddings, examples.labels)
    model = fit("logistic", examples, settings=SETTINGS)
    ours = predict_proba(model, examples, settings=SETTINGS)
    assert ours == pytest.approx(theirs.predict_proba(examples.embeddings), abs=1e-5)


def test_prototype_is_the_nearest_class_mean():
    examples = blobs(classes=3)
    model = fit("prototype", examples, settings=SETTINGS)
    queries = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    means = np.stack([examples.embeddings[i * 6 : i * 6 + 6].mean(0) for i in range(3)])
    nearest = [int(np.argmin([np.linalg.norm(q - m) for m in means])) for q in queries]
    blank = Examples([], queries, ["class 0"] * 50)
    assert list(predict_proba(model, blank, settings=SETTINGS).argmax(1)) == nearest


def test_saved_classifiers_come_back_whole(tmp_path):
    model = fit("logistic", blobs(classes=3), settings=SETTINGS)
    save({0: model}, tmp_path)
    back = load(tmp_path)[0]
    assert back.classes == model.classes
    assert all((back.weights[k] == v).all() for k, v in model.weights.items())


def test_out_of_fold_gives_zero_to_a_class_that_training_lacked():
    examples = blobs(classes=3, each=1)
    probabilities = out_of_fold("prototype", examples, settings=SETTINGS, folds=2)
    assert (probabilities == 0).all()  # one fold holds everything: nothing is left to train on
    pair = blobs(classes=3, each=2)
    held_out = out_of_fold("prototype", pair, settings=SETTINGS)
    assert held_out.sum(1) == pytest.approx(np.ones(6))


def test_out_of_fold_never_trains_on_the_example_it_predicts():
    """With random labels a leak would be right every time."""
    examples = blobs(classes=2, each=20)
    random = np.random.default_rng(0)
    labels = [f"class {k}" for k in random.integers(0, 2, 40)]
    noise = random.normal(size=(40, 8)).astype(np.float32)
    shuffled = Examples(examples.images, noise, labels)
    right = out_of_fold("prototype", shuffled, settings=SETTINGS).argmax(1)
    accuracy = np.mean([f"class {k}" == label for k, label in zip(right, labels, strict=True)])
    assert 0.2 < accuracy < 0.8


def test_network_from_scratch_learns_and_repeats_itself():
    examples = blobs(classes=3)
    model, again = (fit("finetune", examples, settings=SETTINGS) for _ in range(2))
    assert all((again.weights[k] == v).all() for k, v in model.weights.items())
    probabilities = predict_proba(model, examples, settings=SETTINGS)
    assert [model.classes[k] for k in probabilities.argmax(1)] == examples.labels


def test_one_class_is_refused():
    with pytest.raises(GenieError, match="at least two classes"):
        fit("logistic", blobs(classes=1), settings=SETTINGS)


def test_mixed_labels_weigh_by_their_share():
    examples = blobs(classes=2)
    half = np.full(12, 0.5)
    doubled = join(
        Examples(examples.images, examples.embeddings, examples.labels, half),
        Examples(examples.images, examples.embeddings, examples.labels, half),
    )
    for head in ("logistic", "svm", "prototype"):
        whole = fit(head, examples, settings=SETTINGS).weights["weight"]
        assert fit(head, doubled, settings=SETTINGS).weights["weight"] == pytest.approx(
            whole, abs=1e-3
        )


def test_weight_of_zero_is_no_example():
    examples = blobs(classes=2)
    wrong = Examples(examples.images, examples.embeddings, examples.labels[::-1], np.zeros(12))
    alone = fit("prototype", examples, settings=SETTINGS).weights["weight"]
    both = fit("prototype", join(examples, wrong), settings=SETTINGS).weights["weight"]
    assert both == pytest.approx(alone)


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.3, -0.2]])
TARGETS = torch.tensor([0, 2])
PRIOR = torch.tensor([0.7, 0.2, 0.1])


def test_balanced_bce_is_livts_formula():
    expected = []
    for z, y in zip(LOGITS.tolist(), TARGETS.tolist(), strict=True):
        total = 0.0
        for k, pi in enumerate([0.7, 0.2, 0.1]):
            p = 1 / (1 + math.exp(-(z[k] + math.log(pi) - math.log(1 - pi))))
            total -= math.log(p) if k == y else math.log(1 - p)
        expected.append(total)
    assert LOSSES["bal-bce"](LOGITS, TARGETS, PRIOR).tolist() == pytest.approx(expected, rel=1e-5)


def test_logit_adjustment_is_the_softmax_weighted_by_the_prior():
    z = LOGITS.double().exp() * PRIOR.double()
    share = (z / z.sum(1, keepdim=True))[[0, 1], TARGETS]
    found = LOSSES["logit-adjustment"](LOGITS, TARGETS, PRIOR)
    assert found.tolist() == pytest.approx((-share.log()).tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "share"), [("cross-entropy", 0.1), ("logit-adjustment", 0.5), ("bal-bce", 0.5)]
)
def test_rare_class_is_only_held_back_by_plain_cross_entropy(loss, share):
    # nothing to see but the class counts, 36 to 4: what the logits say at the optimum
    targets = torch.tensor([0] * 36 + [1] * 4)
    logits = torch.zeros(2, dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=100)

    def closure():
        optimiser.zero_grad()
        prior = torch.tensor([0.9, 0.1], dtype=torch.double)
        value = LOSSES[loss](logits.expand(40, 2), targets, prior).mean()
        value.backward()
        return value

    optimiser.step(closure)
    assert logits.softmax(0)[1].item() == pytest.approx(share, abs=1e-3)


TRAIN = """
import os, sys
from dataclasses import replace
from pathlib import Path
from tests.genie.test_classifiers import SETTINGS, blobs
from genie.classifiers import fit, save
place = Path(sys.argv[1])
settings = replace(SETTINGS, backbone=place / "backbone", batch_size=9, steps=5)
model = fit("finetune", blobs(classes=3), settings=settings)
save({0: model}, place / os.environ.get("RANK", "alone"))
"""


@pytest.mark.slow
def test_processes_that_share_the_batches_learn_what_one_learns_alone(tmp_path):
    # without batch normalisation, whose statistics are of a process's own share on a CPU
    sizes = {"hidden_size": 16, "intermediate_size": 32, "image_size": 32, "patch_size": 8}
    network = ViTConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
    ViTModel(network).save_pretrained(tmp_path / "backbone")
    shutil.copy("zoo/backbone/preprocessor_config.json", tmp_path / "backbone")
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]):
        subprocess.run(
            [sys.executable, *launcher, script, tmp_path],
            check=True,
            env=os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
        )
    alone, *both = (load(tmp_path / name)[0].weights for name in ("alone", "0", "1"))
    for shared in both:
        for name, value in alone.items():
            np.testing.assert_allclose(shared[name], value, rtol=1e-3, atol=1e-5)
