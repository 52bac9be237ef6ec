"""Training losses: torch's own, and those that no library has.

The repr of each names its settings; a run prints it at its start.
"""

from collections.abc import Mapping

import torch
from timm.loss import compute_class_weights
from torch import nn
from torch.nn import functional as F


class ClassLoss(nn.Module):
    """Cross entropy and focal loss (Lin et al. 2017), on (photos, classes) logits.

    Each photo's cross entropy is scaled by (1 - p)^gamma, where p is the probability of its label;
    gamma 0 is plain cross entropy. `weights` maps class names to weights; the mean over photos is
    weighted, as in torch. Label smoothing applies to the cross entropy.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        *,
        gamma: float = 0.0,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.names = tuple(weights or ())
        self.gamma = gamma
        self.smoothing = smoothing
        self.register_buffer("weights", torch.tensor([*weights.values()]) if weights else None)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        entropy = F.cross_entropy(
            logits, labels, self.weights, reduction="none", label_smoothing=self.smoothing
        )
        if self.gamma:
            likelihood = logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
            entropy = (1 - likelihood) ** self.gamma * entropy
        photos = len(labels) if self.weights is None else self.weights[labels].sum()
        return entropy.sum() / photos

    def extra_repr(self) -> str:
        kind = f"focal, gamma={self.gamma}" if self.gamma else "cross entropy"
        weights = "no class weights"
        if self.weights is not None:
            pairs = zip(self.names, self.weights.tolist(), strict=True)
            weights = "class weights " + " ".join(f"{name} {weight:.3f}" for name, weight in pairs)
        return f"{kind}, smoothing={self.smoothing}, {weights}"


class SoftF1Loss(nn.Module):
    """1 - macro F1 computed from probabilities, on (photos, classes) logits.

    Only classes with photos in the batch count: F1 is undefined for others. `entropy` is a second
    loss, of weight 1 - `weight`, since F1 alone learns slowly from a bad start.
    """

    def __init__(self, weight: float = 1.0, entropy: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.entropy = entropy

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        p, true = logits.softmax(dim=1), F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        hits, present = (p * true).sum(dim=0), true.sum(dim=0) > 0
        f1 = 2 * hits / (p.sum(dim=0) + true.sum(dim=0))
        loss = 1 - f1[present].mean()
        if self.entropy is None:
            return loss
        return self.weight * loss + (1 - self.weight) * self.entropy(logits, labels)

    def extra_repr(self) -> str:
        return f"weight of 1 - soft macro F1: {self.weight}"


class LabelDistributionLoss(nn.Module):
    """Learn years as a distribution (DLDL-v2, Gao et al. 2018), on (photos, years) logits.

    Each logit is a year from `first` to `last`; these two include all years before and after.
    Labels are int64 indices of years, 0 for `first`. A photo's target is a Gaussian of `sigma` years
    around its year, except for `first` and `last`, whose target is that year alone: they mean "or
    younger" and "or older", and a Gaussian would put half of its mass in between. The loss is the
    cross entropy with the target plus `expectation` times the absolute error of the predicted mean,
    in years.
    """

    def __init__(self, first: int, last: int, sigma: float = 3.0, expectation: float = 0.1) -> None:
        super().__init__()
        self.first = first
        self.sigma = sigma
        self.expectation = expectation
        years = torch.arange(last - first + 1, dtype=torch.float32)
        self.register_buffer("years", years)
        middles = years[:, None]
        borders = torch.cat([years[1:] - 0.5, torch.tensor([torch.inf])])
        below = torch.special.ndtr((borders - middles) / sigma)
        table = below.diff(dim=1, prepend=torch.zeros_like(middles))
        table[0], table[-1] = F.one_hot(torch.tensor([0, len(years) - 1]), len(years)).float()
        self.register_buffer("table", table)

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """(photos,) indices of years → (photos, years) probabilities that sum to 1."""
        return self.table[labels]

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        entropy = F.cross_entropy(logits, self.targets(labels))
        mean = (logits.softmax(dim=1) * self.years).sum(dim=1)
        return entropy + self.expectation * F.l1_loss(mean, labels.float())

    def extra_repr(self) -> str:
        last = self.first + len(self.years) - 1
        return f"years {self.first} to {last}, sigma={self.sigma}, expectation={self.expectation}"


class GroupedLoss(nn.Module):
    """Add `weight` times the cross entropy of groups to `fine`, a loss on (photos, years) logits.

    `membership` is a (years, groups) matrix of 0 and 1; a group's probability is the sum of its
    years'. Years alone learn little where a group has few photos for each of many years. Labels are
    int64 indices of years; for photos without a year, the number of years plus the index of the
    group, which trains the group only.
    """

    def __init__(self, fine: nn.Module, membership: torch.Tensor, weight: float) -> None:
        super().__init__()
        self.fine = fine
        self.weight = weight
        self.register_buffer("membership", membership)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # Not 0, since log 0 has no finite gradient where a group has no years.
        member = self.membership.clamp_min(1e-30).log()
        years = logits.log_softmax(dim=1)[:, :, None] + member
        places = len(member)
        dated = labels < places
        of_years = self.membership.argmax(dim=1)[labels.clamp_max(places - 1)]
        groups = torch.where(dated, of_years, labels - places)
        fine = self.fine(logits[dated], labels[dated]) if dated.any() else 0 * logits.sum()
        return fine + self.weight * F.nll_loss(years.logsumexp(dim=1), groups)

    def extra_repr(self) -> str:
        return f"weight of the groups: {self.weight}"


def make_loss(
    name: str,
    counts: Mapping[str, int],
    *,
    gamma: float,
    beta: float,
    smoothing: float,
    f1_weight: float,
) -> nn.Module:
    """Make the loss of --loss `name`; `counts` maps class names to training photos.

    weighted_ce weights classes by 1 / photos, cb_focal by 1 / effective number (Cui et al. 2019),
    both by timm's `compute_class_weights`, whose weights have mean 1.
    """
    if name in ("focal", "cb_focal", "focal+f1"):
        weights = class_weights(counts, "effective_num", beta) if name == "cb_focal" else None
        focal = ClassLoss(weights, gamma=gamma, smoothing=smoothing)
        return SoftF1Loss(f1_weight, focal) if name == "focal+f1" else focal
    if name == "f1":
        return SoftF1Loss()
    if name == "label_smoothing":
        return ClassLoss(smoothing=smoothing or 0.1)
    weights = class_weights(counts, "inv_freq", beta) if name == "weighted_ce" else None
    entropy = ClassLoss(weights, smoothing=smoothing)
    return SoftF1Loss(f1_weight, entropy) if name == "ce+f1" else entropy


def class_weights(counts: Mapping[str, int], method: str, beta: float) -> dict[str, float]:
    """Weights of mean 1 by class name, by one of timm's methods."""
    photos = [*counts.values()]
    _, weights = compute_class_weights(photos, sum(photos), method=method, beta=beta)
    return dict(zip(counts, weights.tolist(), strict=True))
