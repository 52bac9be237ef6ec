"""The age task's view of a face: years, and the three groups that the competition asks for."""

import re

from common.data.layout import Face, age_band

CLASSES = ("<30", "30-59", ">=60")
YEARS = 101  # 0 to 100, for the loss that learns years


def label(face: Face, old_from: int = 60) -> int:
    """Class of a photo by the person's years; `old_from` 60 is the official rule."""
    return CLASSES.index(">=60") if face.age >= old_from else age_band(face.age)


def year_range(text: str) -> tuple[int, int]:
    """Parse "57-59" (or "58") into its first and last year, both included."""
    if not re.fullmatch(r"\d+(-\d+)?", text):
        raise ValueError("expected a range of years, such as 57-59")
    first, _, last = text.partition("-")
    years = int(first), int(last or first)
    if not 0 <= years[0] <= years[1] <= 120:
        raise ValueError("a range of years runs upwards, such as 57-59")
    return years
