"""Augmentation of the gender task."""

import albumentations as A
import cv2


def augmentation() -> A.Compose:
    """S2's recipe: rotation, perspective and noise, each on half of the photos."""
    return A.Compose(
        [
            A.Rotate(limit=20, border_mode=cv2.BORDER_REFLECT_101, p=0.5),
            A.Perspective(p=0.5),
            # S2's variance of 10 to 50 on 0..255; today's default would drown the face.
            A.GaussNoise(std_range=(0.0124, 0.0277), p=0.5),
        ]
    )
