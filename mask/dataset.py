"""The mask task's view of a face: the photo's stem says how the mask is worn."""

from common.data.layout import MASKS, Face

CLASSES = ("wear", "incorrect", "not_wear")  # in the order of MASKS


def known(face: Face) -> bool:
    """Whether the photo's name says how the mask is worn."""
    return bool(face.mask)


def label(face: Face) -> int:
    """Class of a photo, by its whole stem: 'mask' is also a part of 'incorrect_mask'."""
    return MASKS.index(face.mask)
