"""Properties of the people in photos by which a report groups them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.base.errors import UserError, listed
from common.base.names import path_key
from common.base.tables import read_table
from common.data.labels import parse_years
from common.data.layout import TRAIN_COLUMNS, Face

NAMES_PERSON = ("person", "id")  # the first of them that a table has names the person


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
    table = read_table(path, ("ImageID",), optional=TRAIN_COLUMNS)
    rows = table.set_index(table["ImageID"].map(path_key)).loc[list(map(path_key, names))]
    column = next((name for name in NAMES_PERSON if name in rows), None)
    people = np.array(list(names), dtype=object)
    if column is not None:
        keys = rows[column].str.strip().to_numpy()
        people = np.where(keys == "", people, keys)
    races = rows["race"].str.strip().tolist() if "race" in rows else [""] * len(names)
    ages = rows["age"].str.strip().tolist() if "age" in rows else [""] * len(names)
    years = _years(path, names, ages)
    return Subjects(people.astype(str), years, np.array(races), path.name, column is not None)


def _years(path: Path, names: Sequence[str], ages: Sequence[str]) -> np.ndarray:
    """Parse ages in years, NaN for an age group, a range or an empty cell."""
    values, wrong = [], []
    for name, age in zip(names, ages, strict=True):
        try:
            years = parse_years(age)
        except ValueError as error:
            wrong.append(f"{name}: age {error}")
        else:
            values.append(years.first if years and years.first == years.last else np.nan)
    if wrong:
        raise UserError(f"{path}: {len(wrong)} ages can't be read\n{listed(wrong)}")
    return np.array(values, dtype=float)
