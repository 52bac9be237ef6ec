"""Labels of the age task, from the table's column age: years, or one of three groups."""

import re

from common.data.layout import AGE_BORDERS, AGE_GROUPS, Face, age_band

CLASSES = AGE_GROUPS


def label(face: Face, old_from: int = AGE_BORDERS[-1]) -> int | None:
    """Index in CLASSES of the person's age group; None if the table doesn't have the age.

    Ages of `old_from` years and more are ">=60"; the default is the official rule.
    """
    if face.age is None:
        return None
    return CLASSES.index(">=60") if face.age >= old_from else age_band(face.age)


def year_range(text: str) -> tuple[int, int]:
    """Parse "57-59" (or "58") into its first and last year, both included."""
    if not re.fullmatch(r"\d+(-\d+)?", text):
        raise ValueError("expected a range of years, such as 57-59")
    first, _, last = text.partition("-")
    years = int(first), int(last or first)
    if not years[0] <= years[1] <= 120:
        raise ValueError("expected a range of years in ascending order, at most 120, such as 57-59")
    return years


def bins(text: str) -> str:
    """Parse "0-100" or auto; each age group must contain a year."""
    if text == "auto":
        return text
    first, last = year_range(text)
    if not first < AGE_BORDERS[0] or not last >= AGE_BORDERS[-1]:
        raise ValueError("expected auto, or years from below 30 to 60 or above, such as 18-60")
    return f"{first}-{last}"
