"""Losses compute what their names say, and print their settings."""

from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional as F

from age.recipe import AgeRecipe
from common.data.layout import Face, Person, age_band
from common.model import losses
from common.model.losses import LabelDistributionLoss
from mask.recipe import MaskRecipe

COUNTS = {"many": 900, "some": 90, "few": 9}
SETTINGS = {"gamma": 2.0, "beta": 0.999, "smoothing": 0.0, "f1_weight": 0.5}


def make_loss(name: str, **settings: float) -> nn.Module:
    return losses.make_loss(name, COUNTS, **SETTINGS | settings)


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


def test_class_weights_are_torchs_and_differ(batch):
    """Inverse frequency, and the effective number 1 - beta^n (Cui et al.); both have mean 1."""
    inverse = torch.tensor([1 / n for n in COUNTS.values()])
    effective = torch.tensor([0.001 / (1 - 0.999**n) for n in COUNTS.values()])
    for name, weights in (("weighted_ce", inverse), ("cb_focal", effective)):
        weights = weights / weights.mean()
        assert weights[2] > 5 * weights[0]
        loss = make_loss(name, gamma=0.0)(*batch)
        assert torch.allclose(loss, F.cross_entropy(*batch, weight=weights), atol=1e-6)
    assert not torch.allclose(make_loss("cb_focal")(*batch), make_loss("focal")(*batch))


def test_label_smoothing_has_a_default_amount(batch):
    for given_, expected in ((0.0, 0.1), (0.3, 0.3)):
        loss = make_loss("label_smoothing", smoothing=given_)(*batch)
        assert torch.allclose(loss, F.cross_entropy(*batch, label_smoothing=expected))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_f1_of_certain_predictions_is_scikit_learns(pairs):
    true, predicted = (torch.tensor(part) for part in zip(*pairs, strict=True))
    logits = 100.0 * F.one_hot(predicted, 3)
    present = sorted(set(true.tolist()))
    expected = f1_score(true, predicted, labels=present, average="macro", zero_division=0)
    assert make_loss("f1")(logits, true).item() == pytest.approx(1 - expected, abs=1e-5)


def test_ce_and_f1_are_a_weighted_sum(batch):
    f1, entropy = make_loss("f1")(*batch), make_loss("cross_entropy")(*batch)
    both = make_loss("ce+f1", f1_weight=0.25)(*batch)
    assert torch.allclose(both, 0.25 * f1 + 0.75 * entropy)


def test_focal_and_f1_are_a_weighted_sum(batch):
    f1, focal = make_loss("f1")(*batch), make_loss("focal", gamma=1.5)(*batch)
    both = make_loss("focal+f1", f1_weight=0.4, gamma=1.5)(*batch)
    assert torch.allclose(both, 0.4 * f1 + 0.6 * focal)


def test_losses_print_their_settings():
    assert "focal, gamma=1.5" in repr(make_loss("focal", gamma=1.5))
    assert "cross entropy, smoothing=0.1" in repr(make_loss("cross_entropy", smoothing=0.1))
    assert "class weights many 0.0" in repr(make_loss("weighted_ce"))
    assert "F1: 0.5" in repr(make_loss("ce+f1"))
    assert "cross entropy" in repr(make_loss("ce+f1"))
    assert "wear" in repr(MaskRecipe(loss="cb_focal").criterion([5, 1, 1]))


def test_years_are_learned_as_a_distribution():
    """The loss is lowest when the prediction is the Gaussian around the true years."""
    loss = LabelDistributionLoss(0, 100, sigma=3.0, expectation=0.0)
    labels = torch.tensor([18, 45, 80])
    targets = loss.targets(labels)
    assert torch.allclose(targets.sum(dim=1), torch.ones(3))
    assert targets.argmax(dim=1).tolist() == labels.tolist()
    bell = NormalDist(45, 3)
    assert targets[1, 48].item() == pytest.approx(bell.cdf(48.5) - bell.cdf(47.5), abs=1e-5)
    logits = targets.log().clamp_min(-80).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    assert gradient.abs().max() < 1e-6
    further = LabelDistributionLoss(0, 100, sigma=3.0, expectation=1.0)(logits.roll(10, 1), labels)
    assert further > loss(logits.roll(10, 1), labels) + 5


@given(st.integers(0, 100), st.floats(0.1, 10))
def test_the_group_of_a_year_is_learned_too(year, weight):
    logits = torch.randn(2, 101, generator=torch.Generator().manual_seed(year))
    labels, recipe = torch.tensor([year, 60]), AgeRecipe(group_weight=weight)
    groups = [age_band(year), 2]
    probabilities = recipe.probabilities(logits)[torch.arange(2), groups]
    years = LabelDistributionLoss(0, 100)(logits, labels)
    expected = years - weight * probabilities.log().mean()
    assert recipe.criterion([])(logits, labels).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_group_without_years_trains_the_group_only():
    recipe = AgeRecipe()
    person = Person("p", "male", 30, exact=False)
    target = recipe.target(Face(Path("x"), "normal", person))
    assert recipe.target_class(torch.tensor([target, 70])).tolist() == [1, 2]
    logits = torch.randn(2, 101, generator=torch.Generator().manual_seed(0))
    loss, probabilities = recipe.criterion([]), recipe.probabilities(logits)
    alone = loss(logits[:1], torch.tensor([target]))
    assert alone.item() == pytest.approx(-probabilities[0, 1].log().item(), rel=1e-4)
    both = loss(logits, torch.tensor([target, 70]))
    years = LabelDistributionLoss(0, 100)(logits[1:], torch.tensor([70]))
    expected = years - (probabilities[0, 1].log() + probabilities[1, 2].log()) / 2
    assert both.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_group_of_no_years_has_finite_gradients():
    logits = torch.zeros(2, 31, requires_grad=True)
    loss = AgeRecipe(bins="30-60").criterion([])  # a table without people below 30
    (gradient,) = torch.autograd.grad(loss(logits, torch.tensor([0, 30])), logits)
    assert gradient.isfinite().all() and gradient[0, 0] < 0 < gradient[1, 0]


@given(st.lists(st.floats(-20, 20, width=32), min_size=101, max_size=101))
def test_years_are_summed_to_the_official_groups(logits):
    probabilities = torch.tensor([logits]).softmax(dim=1)[0]
    groups = AgeRecipe(loss="dldl").probabilities(torch.tensor([logits]))[0]
    expected = [probabilities[:30].sum(), probabilities[30:60].sum(), probabilities[60:].sum()]
    assert groups.tolist() == pytest.approx([x.item() for x in expected], abs=1e-5)


def test_targets_are_classes_or_years():
    faces = [Face(Path("x"), "normal", Person("p", "male", age)) for age in (29, 57, 58, 101)]
    assert [AgeRecipe(loss="focal").target(f) for f in faces] == [0, 1, 1, 2]
    years = AgeRecipe(loss="dldl", old_from=58)
    assert [years.target(f) for f in faces] == [29, 57, 60, 100]
    assert (years.outputs, AgeRecipe(loss="focal").outputs) == (101, 3)
    targets = torch.tensor([0, 29, 30, 59, 60, 100])
    assert years.target_class(targets).tolist() == [0, 0, 1, 1, 2, 2]
    assert AgeRecipe(loss="focal").target_class(targets) is targets
