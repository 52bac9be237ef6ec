"""Losses do what their names say, and say what they do."""

import pytest
import torch
from torch.nn import functional as F

from common.training.losses import make_loss


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
