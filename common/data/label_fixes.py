"""Corrections of wrong labels in the table and the folders, for training only and on request.

`--label-fixes core` applies those to the competition's train.csv on which many teams agreed;
`likely` and `single` add less certain ones (label_fixes.csv, each with its source). Any other value
is the path of a table with the columns id (as in train.csv, or the path) and what:

    male, female, flip-gender     the person's gender
    swap                          incorrect_mask and normal are interchanged
    wear                          incorrect_mask shows a mask that is worn
    ignore                        leave the person out of training

common.tools.review proposes such a table after --fold all.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from common.base.errors import UserError
from common.base.names import folded
from common.base.tables import read_table
from common.data.layout import GENDERS, Face, Person

TIERS = ("core", "likely", "single")  # each includes those before it
BUILT_IN = Path(__file__).with_name("label_fixes.csv")
VIEW_FIXES = {
    "swap": {"incorrect_mask": "normal", "normal": "incorrect_mask"},
    "wear": {"incorrect_mask": "mask0"},  # a new name: photos of worn masks are mask1 to mask5
}
WHATS = (*GENDERS, "flip-gender", *VIEW_FIXES, "ignore")

Fixes = Mapping[str, Sequence[str]]  # person key → what to correct


@dataclasses.dataclass(frozen=True)
class Fix:
    """A row of a table of fixes: its place, for messages, a person's id or path, one of WHATS."""

    where: str
    id: str
    what: str


def read_fixes(chosen: str) -> list[Fix]:
    """Read the fixes of a tier, or of the table at the path `chosen`.

    Raises:
        UserError: there is no such table, or a row is unusable.
    """
    table = BUILT_IN if chosen in TIERS else Path(chosen)
    if not table.exists():
        raise UserError(
            f"--label-fixes {chosen}: no such file; expected {', '.join(TIERS)}, or a table with "
            "the columns id and what"
        )
    frame = read_table(table, ("id", "what"), optional=("tier",))
    if chosen in TIERS:
        frame = frame[frame["tier"].isin(TIERS[: TIERS.index(chosen) + 1])]
    rows = zip(frame.index + 2, frame["id"], frame["what"].map(folded), strict=True)
    return [_fix(f"{table}: row {number}", name, what) for number, name, what in rows]


def _fix(where: str, name: str, what: str) -> Fix:
    if not name:
        raise UserError(f"{where}: no id")
    if what not in WHATS:
        raise UserError(f"{where}: what {what!r}, expected one of {', '.join(WHATS)}")
    return Fix(where, name, what)


def by_person(fixes: Iterable[Fix], people: Collection[Person]) -> dict[str, list[str]]:
    """Map the keys of `people` to their fixes; fixes of others are left out.

    Raises:
        UserError: a person has two fixes of the gender or two of the views, or several people share
            the id.
    """
    owners: dict[str, list[str]] = {}
    for person in people:
        owners.setdefault(person.columns.get("id", "").strip(), []).append(person.key)
    owners |= {person.key: [person.key] for person in people}
    chosen: dict[str, list[str]] = {}
    earlier: dict[tuple[str, bool], str] = {}
    for fix in fixes:
        keys = sorted(owners.get(fix.id, ()))
        if len(keys) > 1:
            raise UserError(
                f"{fix.where}: id {fix.id!r} is shared by {len(keys)} people; give the path of "
                f"one instead: {', '.join(keys)}"
            )
        for key in keys:
            first = earlier.setdefault((key, fix.what in VIEW_FIXES), fix.where)
            if first != fix.where:
                raise UserError(f"{fix.where}: {fix.id} has such a fix already, see {first}")
            chosen.setdefault(key, []).append(fix.what)
    return chosen


def fixed(faces: Iterable[Face], fixes: Fixes) -> list[Face]:
    """Apply `fixes` to the gender and view of `faces`; photos of ignored people are removed."""
    kept = (face for face in faces if "ignore" not in fixes.get(face.person.key, ()))
    return [functools.reduce(_corrected, fixes.get(f.person.key, ()), f) for f in kept]


def _corrected(face: Face, what: str) -> Face:
    if what in VIEW_FIXES:
        return dataclasses.replace(face, view=VIEW_FIXES[what].get(face.view, face.view))
    other = dict(zip(GENDERS, reversed(GENDERS), strict=True)).get(face.gender, "")
    person = dataclasses.replace(face.person, gender=other if what == "flip-gender" else what)
    return dataclasses.replace(face, person=person)


def fix_report(total: int, here: Fixes, used: Fixes, faces: Sequence[Face]) -> list[str]:
    """Lines to print: the numbers of fixes, and one line for each person of `used`.

    `total` counts the table's rows, `here` are those of people of the data set, `used` those of
    people in training, whose photos are among `faces`.
    """
    lines = []
    for key, whats in sorted(used.items()):
        photos = [face for face in faces if face.person.key == key]
        changed = set(photos).difference(fixed(photos, used))
        lines.append(f"  {key}: {', '.join(whats)} ({len(changed)} photos)")
    rows, rows_used = (sum(map(len, fixes.values())) for fixes in (here, used))
    head = f"label fixes: {rows_used} of {total} used"
    if rows > rows_used:
        head += f"; {rows - rows_used} of {total} are of people who aren't trained on"
    if rows < total:
        head += f"; {total - rows} of {total} are of people who aren't in the table"
    return [head, *lines]
