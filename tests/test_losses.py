"""Losses do what their names say, and say what they do."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from age.recipe import AgeRecipe
from common.data.layout import Face, Person
from common.training.losses import LabelDistributionLoss, make_loss


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(32, 3, generator=generator), torch.randint(3, (32,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_with_gamma_0_is_cross_entropy(batch, smoothing):
    focal = make_loss("focal", gamma=0.0, smoothing=smoothing)(*batch)
    assert torch.allclose(focal, F.cross_entropy(*batch, label_smoothing=smoothing))


def test_focal_by_hand():
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    p = logits.softmax(1)[0, 0]
    loss = make_loss("focal", gamma=2.0, smoothing=0.0)(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(float((1 - p) ** 2 * -p.log()))


def test_focal_counts_easy_photos_less():
    easy, hard = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    label = torch.tensor([0])
    focal, entropy = (make_loss(n, gamma=2.0, smoothing=0.0) for n in ("focal", "cross_entropy"))
    assert focal(easy, label) / entropy(easy, label) < 0.001
    assert focal(hard, label) / entropy(hard, label) > 0.3


def test_losses_say_what_they_do():
    assert "gamma=1.5" in repr(make_loss("focal", gamma=1.5, smoothing=0.0))
    assert "smoothing=0.1" in repr(make_loss("cross_entropy", gamma=2.0, smoothing=0.1))


def test_years_are_learned_as_a_distribution():
    """The loss is least where the prediction is the Gaussian about the true years."""
    loss = LabelDistributionLoss(101, sigma=3.0, expectation=0.0)
    labels = torch.tensor([18, 45, 100])
    targets = loss.targets(labels)
    assert torch.allclose(targets.sum(dim=1), torch.ones(3))
    assert targets.argmax(dim=1).tolist() == labels.tolist()
    assert targets[1, 48] / targets[1, 45] == pytest.approx(math.exp(-0.5), abs=1e-4)
    logits = targets.log().clamp_min(-80).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    assert gradient.abs().max() < 1e-6
    further = LabelDistributionLoss(101, sigma=3.0, expectation=1.0)(logits.roll(10, 1), labels)
    assert further > loss(logits.roll(10, 1), labels) + 5


@given(st.lists(st.floats(-20, 20, width=32), min_size=101, max_size=101))
def test_years_are_summed_to_the_official_groups(logits):
    shares = torch.tensor([logits]).softmax(dim=1)[0]
    groups = AgeRecipe(loss="dldl").probabilities(torch.tensor([logits]))[0]
    expected = [shares[:30].sum(), shares[30:60].sum(), shares[60:].sum()]
    assert groups.tolist() == pytest.approx([x.item() for x in expected], abs=1e-5)


def test_the_target_is_what_the_loss_wants():
    faces = [Face(Path("x"), "normal", Person("p", "male", age)) for age in (29, 57, 58, 101)]
    assert [AgeRecipe().target(f) for f in faces] == [0, 1, 1, 2]
    years = AgeRecipe(loss="dldl", old_from=58)
    assert [years.target(f) for f in faces] == [29, 57, 60, 100]
    assert (years.outputs, AgeRecipe().outputs) == (101, 3)
