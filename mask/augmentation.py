"""Augmentation of the mask task: never erases or shuffles the lower face, which is the label."""

import albumentations as A
import cv2


def augmentation() -> A.Compose:
    """S2's recipe: a change of view and a change of colour, each on half of the photos."""
    view = [A.Perspective(p=1), A.Rotate(limit=20, border_mode=cv2.BORDER_REFLECT_101, p=1)]
    colour = [
        A.RandomBrightnessContrast(contrast_limit=0, p=1),
        A.HueSaturationValue(p=1),
        A.RandomBrightnessContrast(brightness_limit=0, p=1),
    ]
    return A.Compose([A.OneOf(view, p=0.5), A.OneOf(colour, p=0.5)])
