"""Augmentation of the age task."""

import albumentations as A

from common.model.augmentation import rotation


def augmentation() -> A.Compose:
    """S2's recipe: as for gender, and half of the perspectives are shuffled quarters instead."""
    rearranged = [A.RandomGridShuffle(grid=(2, 2), p=1), A.Perspective(p=1)]
    return A.Compose(
        [
            rotation(),
            A.OneOf(rearranged, p=0.5),
            # S2's variance of 10 to 50 on 0..255; today's default would drown the face.
            A.GaussNoise(std_range=(0.0124, 0.0277), p=0.5),
        ]
    )
