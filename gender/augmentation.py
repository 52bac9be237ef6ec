"""Augmentation of the gender task; albumentations is imported on use, so that --help stays fast."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from albumentations import Compose


def augmentation() -> "Compose":
    """S2's augmentation: rotation, perspective and noise, each on half of the photos."""
    import albumentations as A

    from common.model.augmentation import noise, rotation

    return A.Compose([rotation(), A.Perspective(p=0.5), noise()])
