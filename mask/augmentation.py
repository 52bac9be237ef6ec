"""Augmentation of the mask task, which never erases or shuffles the lower face: it is the label.

albumentations is imported on use, so that --help stays fast.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from albumentations import Compose


def augmentation() -> "Compose":
    """S2's augmentation: a change of view and a change of colour, each on half of the photos."""
    import albumentations as A

    from common.model.augmentation import rotation

    view = [A.Perspective(p=1), rotation(p=1)]
    colour = [
        A.RandomBrightnessContrast(contrast_limit=0, p=1),
        A.HueSaturationValue(p=1),
        A.RandomBrightnessContrast(brightness_limit=0, p=1),
    ]
    return A.Compose([A.OneOf(view, p=0.5), A.OneOf(colour, p=0.5)])
