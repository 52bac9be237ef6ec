"""How a model does for different people: the held-out photos that it has right, by group."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from common.data.layout import AGE_GROUPS, GENDERS, MASKS, Face

ORDER = (*GENDERS, *AGE_GROUPS, *MASKS, "")  # "" isn't known


def by_group(faces: Sequence[Face], right: Sequence[bool]) -> list[dict[str, Any]]:
    """Persons, photos and right answers of each group of `faces`, as plain values for the card.

    An entry for each of `Face.groups` alone and one for all of them together, that is
    {"by": [names], "rows": [[values], persons, photos, right]}; where nothing is known of a name
    there are no groups by it.
    """
    table = pd.DataFrame([face.groups for face in faces])
    names = [name for name in table if table[name].any()]
    table["person"], table["right"] = [face.person.key for face in faces], list(right)
    ways = [[name] for name in names] + ([names] if len(names) > 1 else [])
    return [{"by": by, "rows": _rows(table, by)} for by in ways]


def _rows(table: pd.DataFrame, by: list[str]) -> list[list[Any]]:
    rows = [
        [list(values), part["person"].nunique(), len(part), int(part["right"].sum())]
        for values, part in table.groupby(by)
    ]
    return sorted(rows, key=lambda row: [ORDER.index(value) for value in row[0]])
