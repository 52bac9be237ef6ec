"""The gender task's view of a face: the person's row in the table."""

from common.data.layout import Face

CLASSES = ("male", "female")


def known(face: Face) -> bool:
    """Whether the table has a gender for the person."""
    return bool(face.gender)


def label(face: Face) -> int:
    """Class of a photo, by the table's gender: 'male' is also a part of 'female'."""
    return CLASSES.index(face.gender)
