"""Labels of the gender task, from the table's column gender."""

from common.data.layout import GENDERS, Face

CLASSES = GENDERS


def label(face: Face) -> int | None:
    """Index in CLASSES of the person's gender; None if the table doesn't have it."""
    return CLASSES.index(face.gender) if face.gender else None
