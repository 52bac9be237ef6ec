"""Augmentation of the age task; albumentations is imported on use, so that --help stays fast."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from albumentations import Compose


def augmentation() -> "Compose":
    """S2's augmentation: that of gender, but half of the perspectives are shuffled quarters."""
    import albumentations as A

    from common.model.augmentation import noise, rotation

    rearranged = [A.RandomGridShuffle(grid=(2, 2), p=1), A.Perspective(p=1)]
    return A.Compose([rotation(), A.OneOf(rearranged, p=0.5), noise()])
