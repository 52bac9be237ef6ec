"""Training losses: torch's own, and those that no library has.

Each says in its repr what it really does; the start of a run prints it.
"""

from collections.abc import Mapping

import torch
from timm.loss import compute_class_weights
from torch import nn
from torch.nn import functional as F


class ClassLoss(nn.Module):
    """Cross entropy and focal loss (Lin et al. 2017), on (photos, classes) logits.

    (1 - p)^gamma scales each photo's cross entropy, p being the probability of its label; with
    gamma 0 it is cross entropy itself. `weights`: class name → how much a photo of it counts; the
    mean is weighted, as in torch. Label smoothing goes into the cross entropy.
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
        shown = "no class weights"
        if self.weights is not None:
            pairs = zip(self.names, self.weights.tolist(), strict=True)
            shown = "class weights " + " ".join(f"{name} {weight:.3f}" for name, weight in pairs)
        return f"{kind}, smoothing={self.smoothing}, {shown}"


class SoftF1Loss(nn.Module):
    """1 - macro F1 with probabilities in the place of decisions, on (photos, classes) logits.

    Over the classes that the batch holds: of others F1 says nothing. `entropy` is the loss that is
    added with the rest of `share`, since F1 alone learns slowly from a bad start.
    """

    def __init__(self, share: float = 1.0, entropy: nn.Module | None = None) -> None:
        super().__init__()
        self.share = share
        self.entropy = entropy

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        p, true = logits.softmax(dim=1), F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        hits, present = (p * true).sum(dim=0), true.sum(dim=0) > 0
        f1 = 2 * hits / (p.sum(dim=0) + true.sum(dim=0))
        loss = 1 - f1[present].mean()
        if self.entropy is None:
            return loss
        return self.share * loss + (1 - self.share) * self.entropy(logits, labels)

    def extra_repr(self) -> str:
        return f"share of 1 - soft macro F1: {self.share}"


class LabelDistributionLoss(nn.Module):
    """Learn years as a distribution (DLDL-v2, Gao et al. 2018), on (photos, years) logits.

    A logit stands for each year from `first` to `last`, and these two also for all years before
    and after. The target of a photo, labelled by the place of its year (int64, 0 is `first`), is a
    Gaussian of `sigma` years about it; where that year is the first or last, which say "or younger"
    and "or older", it is that year alone: a Gaussian would tell half of them to be in between. The
    loss is its cross entropy with the prediction plus `expectation` times the error of the
    predicted mean, in years.
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
        """(photos,) places → (photos, years) probabilities that sum to 1."""
        return self.table[labels]

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        entropy = F.cross_entropy(logits, self.targets(labels))
        mean = (logits.softmax(dim=1) * self.years).sum(dim=1)
        return entropy + self.expectation * F.l1_loss(mean, labels.float())

    def extra_repr(self) -> str:
        last = self.first + len(self.years) - 1
        return f"years {self.first} to {last}, sigma={self.sigma}, expectation={self.expectation}"


class GroupedLoss(nn.Module):
    """`fine`, a loss on (photos, years) logits, plus `weight` times the cross entropy of groups.

    A group's probability is the sum of its years', as `membership`, (years, groups) of 0 and 1,
    says. The years alone share too little where a group has few photos for each of many years.
    Labels (int64) are places of years and, from the number of years on, groups of photos whose year
    isn't known: these teach their group only.
    """

    def __init__(self, fine: nn.Module, membership: torch.Tensor, weight: float) -> None:
        super().__init__()
        self.fine = fine
        self.weight = weight
        self.register_buffer("membership", membership)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        member = self.membership.clamp_min(
            1e-30
        ).log()  # -inf has no gradient where a group is empty
        years = logits.log_softmax(dim=1)[:, :, None] + member
        places = len(member)
        known = labels < places
        of_years = self.membership.argmax(dim=1)[labels.clamp_max(places - 1)]
        groups = torch.where(known, of_years, labels - places)
        fine = self.fine(logits[known], labels[known]) if known.any() else 0 * logits.sum()
        return fine + self.weight * F.nll_loss(years.logsumexp(dim=1), groups)

    def extra_repr(self) -> str:
        return f"weight of the groups: {self.weight}"


class CornLoss(nn.Module):
    """Conditional ordinal regression (CORN, Shi et al. 2021), on (photos, classes - 1) logits.

    Logit k answers "above class k?" and learns from the photos that are above class k - 1.
    """

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        ranks = torch.arange(logits.shape[1], device=labels.device)
        asked = (labels[:, None] >= ranks).to(logits.dtype)
        above = (labels[:, None] > ranks).to(logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(logits, above, weight=asked, reduction="sum")
        return entropy / asked.sum()

    def extra_repr(self) -> str:
        return "is it above class k, given that it is above class k - 1"


def corn_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """(photos, classes - 1) CORN logits → (photos, classes) probabilities that sum to 1."""
    above = logits.float().sigmoid().cumprod(dim=1)
    certain = above.new_ones(len(above), 1)
    return torch.cat([certain, above], dim=1) - torch.cat([above, 0 * certain], dim=1)


def make_loss(
    name: str,
    counts: Mapping[str, int],
    *,
    gamma: float,
    beta: float,
    smoothing: float,
    f1_weight: float,
) -> nn.Module:
    """The loss called `name`; `counts` says how many training photos each class has.

    weighted_ce weighs classes by 1 / photos, cb_focal by 1 / effective number (Cui et al. 2019),
    both with timm's `compute_class_weights`, whose weights have mean 1.
    """
    if name in ("focal", "cb_focal"):
        weights = class_weights(counts, "effective_num", beta) if name == "cb_focal" else None
        return ClassLoss(weights, gamma=gamma, smoothing=smoothing)
    if name == "f1":
        return SoftF1Loss()
    if name == "label_smoothing":
        return ClassLoss(smoothing=smoothing or 0.1)
    weights = class_weights(counts, "inv_freq", beta) if name == "weighted_ce" else None
    entropy = ClassLoss(weights, smoothing=smoothing)
    return SoftF1Loss(f1_weight, entropy) if name == "ce+f1" else entropy


def class_weights(counts: Mapping[str, int], method: str, beta: float) -> dict[str, float]:
    """Class → weight with mean 1, by one of timm's methods."""
    photos = [*counts.values()]
    _, weights = compute_class_weights(photos, sum(photos), method=method, beta=beta)
    return dict(zip(counts, weights.tolist(), strict=True))
