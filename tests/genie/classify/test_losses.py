import math

import pytest
import torch

from genie.classify.losses import LOSSES

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.3, -0.2]])
TARGETS = torch.tensor([0, 2])
PRIOR = torch.tensor([0.7, 0.2, 0.1])


def test_balanced_bce_agrees_with_the_formula_of_livt():
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
def test_rare_class_is_penalised_by_plain_cross_entropy_alone(loss, share):
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


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_one_value_per_example_and_is_small_for_correct_logits(loss):
    sure = 40 * torch.nn.functional.one_hot(TARGETS, 3).float() - 20
    right, wrong = LOSSES[loss](sure, TARGETS, PRIOR), LOSSES[loss](sure.roll(1, 1), TARGETS, PRIOR)
    assert right.shape == wrong.shape == (2,)
    assert (right < 0.01).all()
    assert (wrong > 5).all()
