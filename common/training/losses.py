"""Training losses: torch's own, and those that no library has: focal for several classes, DLDL."""

import torch
from torch import nn
from torch.nn import functional as F


class FocalLoss(nn.Module):
    """Focal loss for several classes (Lin et al. 2017), on (photos, classes) logits.

    (1 - p)^gamma scales each photo's cross entropy, p being the probability of its label; with
    gamma 0 it is cross entropy itself. Label smoothing goes into the cross entropy.
    """

    def __init__(self, gamma: float = 2.0, smoothing: float = 0.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.smoothing = smoothing

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        entropy = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)
        likelihood = logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        return ((1 - likelihood) ** self.gamma * entropy).mean()

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, smoothing={self.smoothing}, no class weights"


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """torch's cross entropy, which here also says what it does."""

    def extra_repr(self) -> str:
        return f"smoothing={self.label_smoothing}, no class weights"


class LabelDistributionLoss(nn.Module):
    """Learn years as a distribution (DLDL-v2, Gao et al. 2018), on (photos, years) logits.

    The target of a photo labelled `years` (whole years from 0, int64) is a Gaussian of `sigma`
    years about them; the loss is its cross entropy with the prediction plus `expectation` times
    the error of the predicted mean, in years.
    """

    def __init__(self, years: int, sigma: float = 3.0, expectation: float = 0.1) -> None:
        super().__init__()
        self.sigma = sigma
        self.expectation = expectation
        self.register_buffer("years", torch.arange(years, dtype=torch.float32))

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """(photos,) years → (photos, years) probabilities that sum to 1."""
        away = self.years - labels[:, None]
        return (-away.square() / (2 * self.sigma**2)).softmax(dim=1)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        entropy = F.cross_entropy(logits, self.targets(labels))
        mean = (logits.softmax(dim=1) * self.years).sum(dim=1)
        return entropy + self.expectation * F.l1_loss(mean, labels.float())

    def extra_repr(self) -> str:
        return f"{len(self.years)} years, sigma={self.sigma}, expectation={self.expectation}"


def make_loss(name: str, *, gamma: float, smoothing: float) -> nn.Module:
    """The loss called `name`, whose repr says what it does."""
    if name == "focal":
        return FocalLoss(gamma=gamma, smoothing=smoothing)
    return CrossEntropyLoss(label_smoothing=smoothing)
