"""Labels of the mask task, from the photos' file names."""

from common.data.layout import MASKS, Face

CLASSES = ("wear", "incorrect", "not_wear")  # in the order of MASKS


def label(face: Face) -> int | None:
    """Index in CLASSES of how the mask is worn; None if the file name doesn't say it.

    The whole name counts: 'mask' is also a part of 'incorrect_mask'.
    """
    return MASKS.index(face.mask) if face.mask else None
