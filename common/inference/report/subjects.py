"""Who is on the photos, as far as a table says: what a report groups its photos by."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.base.errors import UserError, listed
from common.data.layout import AGE_GROUPS, Face, read_table

PERSON_COLUMNS = ("person", "id")  # of which the first that there is names the person


@dataclasses.dataclass(frozen=True)
class Subjects:
    """(photos,) arrays, in the photos' order; `table` is the name of what they are from.

    `persons` names whom each photo shows; where that isn't known, `same_person` is False, and each
    photo counts as one of another person. `years` is the age, NaN where it isn't known, and `races`
    what the table calls so, "" where it isn't known.
    """

    persons: np.ndarray
    years: np.ndarray
    races: np.ndarray
    table: str
    same_person: bool = True


def of_faces(faces: Sequence[Face]) -> Subjects:
    """Whom the photos of a training table show."""
    people = [face.person for face in faces]
    years = [p.age if p.exact and p.age is not None else np.nan for p in people]
    return Subjects(
        np.array([person.human for person in people]),
        np.array(years, dtype=float),
        np.array([person.race.strip() for person in people]),
        "train.csv",
    )


def of_labels(path: Path, names: Sequence[str]) -> Subjects:
    """What a table of ImageID,ans says beyond, in columns person or id, age and race.

    UserError lists ages that are none. Every name has a row.
    """
    rows = read_table(path, ("ImageID",)).set_index("ImageID").loc[list(names)]
    column = next((name for name in PERSON_COLUMNS if name in rows), None)
    persons = np.array(list(names), dtype=object)
    if column is not None:
        own = rows[column].str.strip().to_numpy()
        persons = np.where(own == "", persons, own)
    races = rows["race"].str.strip().tolist() if "race" in rows else [""] * len(names)
    ages = rows["age"].str.strip().tolist() if "age" in rows else [""] * len(names)
    return Subjects(
        persons.astype(str), _years(path, names, ages), np.array(races), path.name,
        column is not None,
    )  # fmt: skip


def _years(path: Path, names: Sequence[str], ages: Sequence[str]) -> np.ndarray:
    """Ages in years as numbers, NaN for those that aren't known or are a group's."""
    wrong = [
        f"{name}: age {age!r}"
        for name, age in zip(names, ages, strict=True)
        if age not in (*AGE_GROUPS, "") and not (age.isdecimal() and int(age) <= 120)
    ]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} ages aren't whole numbers from 0 to 120, or nothing\n"
            f"{listed(wrong)}"
        )
    return np.array([float(age) if age.isdecimal() else np.nan for age in ages])
