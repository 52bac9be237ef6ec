"""Augmentation of the gender task."""

import albumentations as A

from common.model.augmentation import rotation


def augmentation() -> A.Compose:
    """S2's recipe: rotation, perspective and noise, each on half of the photos."""
    return A.Compose(
        [
            rotation(),
            A.Perspective(p=0.5),
            # S2's variance of 10 to 50 on 0..255; today's default would drown the face.
            A.GaussNoise(std_range=(0.0124, 0.0277), p=0.5),
        ]
    )
