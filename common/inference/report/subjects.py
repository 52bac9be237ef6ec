"""Properties of the people in photos by which a report groups them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.base.errors import UserError, listed
from common.base.tables import read_table
from common.data.layout import AGE_GROUPS, Face

PERSON_COLUMNS = ("person", "id")  # the first of them that a table has names the person
MAX_AGE = 120  # years


@dataclasses.dataclass(frozen=True)
class Subjects:
    """The people in photos: (photos,) arrays in the photos' order."""

    people: np.ndarray
    """Key of the person; with `same_person` False each photo counts as another person's."""
    years: np.ndarray
    """Age, NaN if not labelled."""
    races: np.ndarray
    """Race as the table names it, "" if not labelled."""
    table: str
    """Name of the table that this comes from."""
    same_person: bool = True
    """True if the table says which photos show the same person."""


def of_faces(faces: Sequence[Face]) -> Subjects:
    """The people in photos of a training table."""
    people = [face.person for face in faces]
    years = [p.age if p.exact and p.age is not None else np.nan for p in people]
    return Subjects(
        np.array([person.human for person in people]),
        np.array(years, dtype=float),
        np.array([person.race.strip() for person in people]),
        "train.csv",
    )


def of_labels(path: Path, names: Sequence[str]) -> Subjects:
    """Read the people from columns person or id, age and race of a table of ImageID,ans.

    Each of `names` has a row.

    Raises:
        UserError: some ages are neither years, an age group nor empty.
    """
    rows = read_table(path, ("ImageID",)).set_index("ImageID").loc[list(names)]
    column = next((name for name in PERSON_COLUMNS if name in rows), None)
    people = np.array(list(names), dtype=object)
    if column is not None:
        keys = rows[column].str.strip().to_numpy()
        people = np.where(keys == "", people, keys)
    races = rows["race"].str.strip().tolist() if "race" in rows else [""] * len(names)
    ages = rows["age"].str.strip().tolist() if "age" in rows else [""] * len(names)
    years = _years(path, names, ages)
    return Subjects(people.astype(str), years, np.array(races), path.name, column is not None)


def _years(path: Path, names: Sequence[str], ages: Sequence[str]) -> np.ndarray:
    """Parse ages in years, NaN for an age group or an empty cell."""
    wrong = [
        f"{name}: age {age!r}"
        for name, age in zip(names, ages, strict=True)
        if age not in (*AGE_GROUPS, "") and not (age.isdecimal() and int(age) <= MAX_AGE)
    ]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} ages aren't whole numbers from 0 to {MAX_AGE}, or empty\n"
            f"{listed(wrong)}"
        )
    return np.array([float(age) if age.isdecimal() else np.nan for age in ages])
