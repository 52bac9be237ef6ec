"""Training losses: torch's own, and the focal loss that no library has for several classes."""

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


def make_loss(name: str, *, gamma: float, smoothing: float) -> nn.Module:
    """The loss called `name`, whose repr says what it does."""
    if name == "focal":
        return FocalLoss(gamma=gamma, smoothing=smoothing)
    return CrossEntropyLoss(label_smoothing=smoothing)
