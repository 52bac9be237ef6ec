"""The mask task's view of a face: the photo's stem says how the mask is worn."""

from common.data.layout import Face

CLASSES = ("wear", "incorrect", "not_wear")


def label(face: Face) -> int:
    """Class of a photo, by its whole stem: 'mask' is also a part of 'incorrect_mask'."""
    if face.view == "normal":
        return CLASSES.index("not_wear")
    return CLASSES.index("incorrect" if face.view == "incorrect_mask" else "wear")
