"""Mixup and CutMix of a batch, by timm, for losses of any kind."""

from collections.abc import Callable

import torch
from timm.data import Mixup

from common.model.recipe import Recipe


class BatchMix(Mixup):
    """Blends each photo of a batch with another (mixup, Zhang et al. 2018; CutMix, Yun et al. 2019).

    timm's own call returns blended one-hot labels, which a loss on years can't use; this one
    returns both labels of each photo and the first one's share. `within`, if given, turns targets
    into classes, and only photos of one class are blended.
    """

    def __init__(
        self,
        mixup: float,
        cutmix: float,
        within: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__(mixup_alpha=mixup, cutmix_alpha=cutmix)
        self.within = within

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """(photos, 3, height, width) and (photos, …) → images, targets, the others' targets, share.

        Draws from numpy's global generator.
        """
        if self.within is not None:
            order = partners(self.within(targets))
            images, targets = images[order], targets[order]
        images = images.float()
        share = float(self._mix_batch(images))
        return images, targets, targets.flip(0), share


def partners(classes: torch.Tensor) -> torch.Tensor:
    """An order of the batch in which place i and the i-th from the end are of one class.

    Odd ones out are left out, but for one in the middle, which is its own partner.
    """
    left, right, odd = [], [], []
    for index in classes.unique().tolist():
        places = (classes == index).nonzero().flatten().tolist()
        odd += places[len(places) // 2 * 2 :]
        left += places[0 : len(places) // 2 * 2 : 2]
        right += places[1::2]
    return torch.tensor(left + odd[:1] + right[::-1], dtype=torch.int64)


def make_mix(recipe: Recipe) -> BatchMix | None:
    """What `recipe` asks for, if anything."""
    if not (recipe.mixup or recipe.cutmix):
        return None
    if not recipe.mix_within_class:
        return BatchMix(recipe.mixup, recipe.cutmix)

    def within(targets: torch.Tensor) -> torch.Tensor:
        return recipe.target_class(targets[:, 0] if targets.ndim > 1 else targets)

    return BatchMix(recipe.mixup, recipe.cutmix, within)
