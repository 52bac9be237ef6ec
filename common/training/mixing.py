"""Mixup and CutMix of a batch with timm, for losses of any kind."""

from collections.abc import Callable

import numpy as np
import torch
from timm.data import Mixup

from common.model.recipe import Recipe


class BatchMix(Mixup):
    """Blends each photo of a batch with another (mixup, Zhang et al. 2018; CutMix, Yun et al. 2019).

    timm's own call returns blended one-hot labels, which a loss on years can't use; this one
    returns both targets of each photo and the first one's weight. `within`, if given, maps targets
    to classes, and only photos of one class are blended. With `halves` CutMix pastes the left or
    the right half.
    """

    def __init__(
        self,
        mixup: float,
        cutmix: float,
        within: Callable[[torch.Tensor], torch.Tensor] | None = None,
        *,
        halves: bool = False,
    ) -> None:
        super().__init__(mixup_alpha=mixup, cutmix_alpha=cutmix)
        self.within, self.halves = within, halves

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """Blend (photos, 3, height, width) images with (photos, …) targets.

        Returns images, their targets, the targets of what is mixed in, and the weight, 0 to 1, of
        the first targets. Draws from numpy's global generator.
        """
        if self.within is not None:
            order = partners(self.within(targets))
            images, targets = images[order], targets[order]
        images = images.float()
        weight = float(self._mix_batch(images))
        return images, targets, targets.flip(0), weight

    def _mix_batch(self, x: torch.Tensor) -> float:
        if not self.halves:
            return super()._mix_batch(x)
        weight, cutmix = self._params_per_batch()
        other = x.flip(0)
        if not cutmix:
            x.mul_(weight).add_(other, alpha=1 - weight)
            return weight
        middle, width = x.shape[3] // 2, x.shape[3]
        columns = slice(0, middle) if np.random.rand() < 0.5 else slice(middle, width)
        x[..., columns] = other[..., columns]
        return 1 - (columns.stop - columns.start) / width


def partners(classes: torch.Tensor) -> torch.Tensor:
    """Order a batch so that place i and the i-th from the end are of one class.

    `classes` is (photos,). Of photos without a partner one is put in the middle, as its own
    partner, and the others are left out.
    """
    left, right, odd = [], [], []
    for index in classes.unique().tolist():
        places = (classes == index).nonzero().flatten().tolist()
        odd += places[len(places) // 2 * 2 :]
        left += places[0 : len(places) // 2 * 2 : 2]
        right += places[1::2]
    return torch.tensor(left + odd[:1] + right[::-1], dtype=torch.int64)


def make_mix(recipe: Recipe) -> BatchMix | None:
    """Make the mixup or CutMix that `recipe` asks for; None if it asks for neither."""
    if not (recipe.mixup or recipe.cutmix):
        return None
    if not recipe.mix_within_class:
        return BatchMix(recipe.mixup, recipe.cutmix, halves=recipe.cutmix_halves)

    def within(targets: torch.Tensor) -> torch.Tensor:
        return recipe.target_class(targets[:, 0] if targets.ndim > 1 else targets)

    return BatchMix(recipe.mixup, recipe.cutmix, within, halves=recipe.cutmix_halves)
