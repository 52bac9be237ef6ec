"""Known errors of the table and the folders, corrected for training only and only when asked for.

`--label-fixes core` takes those of the competition's train.csv on which many teams agreed, `likely`
and `single` also the less certain ones (label_fixes.csv, each with its source); anything else is a
table of one's own with the columns id (as in train.csv, or the path) and what:

    male, female, flip-gender     the person's gender
    swap                          incorrect_mask and normal stand for each other
    wear                          incorrect_mask shows a mask that is worn
    ignore                        training leaves the person out

common.tools.review proposes such a table after --fold all.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from common.base.errors import UserError
from common.data.layout import GENDERS, Face, Person, read_table

TIERS = ("core", "likely", "single")  # each includes those before it
BUILT_IN = Path(__file__).with_name("label_fixes.csv")
VIEWS = {
    "swap": {"incorrect_mask": "normal", "normal": "incorrect_mask"},
    "wear": {"incorrect_mask": "mask0"},  # photos of worn masks count from 1
}
WHATS = (*GENDERS, "flip-gender", *VIEWS, "ignore")

Fixes = Mapping[str, Sequence[str]]  # person key → what to correct


@dataclasses.dataclass(frozen=True)
class Fix:
    """A row of a table of fixes: `where` it stands, a person's id or path, one of WHATS."""

    where: str
    id: str
    what: str


def read_fixes(chosen: str) -> list[Fix]:
    """The fixes of a tier, or of the table whose path is `chosen`.

    UserError for no such table and for the first row that can't be used.
    """
    table = BUILT_IN if chosen in TIERS else Path(chosen)
    if not table.exists():
        raise UserError(
            f"--label-fixes {chosen}: no such file; expected {', '.join(TIERS)}, or a table with "
            "the columns id and what"
        )
    frame = read_table(table, ("id", "what"))
    if chosen in TIERS:
        frame = frame[frame["tier"].isin(TIERS[: TIERS.index(chosen) + 1])]
    rows = zip(frame.index + 2, frame["id"].str.strip(), frame["what"].str.strip(), strict=True)
    return [_fix(f"{table}: row {number}", name, what) for number, name, what in rows]


def _fix(where: str, name: str, what: str) -> Fix:
    if not name:
        raise UserError(f"{where}: no id")
    if what not in WHATS:
        raise UserError(f"{where}: what {what!r}, expected one of {', '.join(WHATS)}")
    return Fix(where, name, what)


def by_person(fixes: Iterable[Fix], people: Collection[Person]) -> dict[str, list[str]]:
    """What to correct for each person's key; whoever is not among `people` is left out.

    A person can have one fix of the gender and one of the views. UserError for a second one and
    for an id that several persons share.
    """
    owners: dict[str, list[str]] = {}
    for person in people:
        owners.setdefault(person.columns.get("id", "").strip(), []).append(person.key)
    owners |= {person.key: [person.key] for person in people}
    found: dict[str, list[str]] = {}
    earlier: dict[tuple[str, bool], str] = {}
    for fix in fixes:
        keys = sorted(owners.get(fix.id, ()))
        if len(keys) > 1:
            raise UserError(
                f"{fix.where}: id {fix.id!r} is shared by {len(keys)} persons; give the path of "
                f"one instead: {', '.join(keys)}"
            )
        for key in keys:
            first = earlier.setdefault((key, fix.what in VIEWS), fix.where)
            if first != fix.where:
                raise UserError(f"{fix.where}: {fix.id} has such a fix already, see {first}")
            found.setdefault(key, []).append(fix.what)
    return found


def fixed(faces: Iterable[Face], fixes: Fixes) -> list[Face]:
    """The photos with the gender and view that are right; photos of ignored persons are gone."""
    kept = (face for face in faces if "ignore" not in fixes.get(face.person.key, ()))
    return [functools.reduce(_corrected, fixes.get(f.person.key, ()), f) for f in kept]


def _corrected(face: Face, what: str) -> Face:
    if what in VIEWS:
        return dataclasses.replace(face, view=VIEWS[what].get(face.view, face.view))
    other = dict(zip(GENDERS, reversed(GENDERS), strict=True)).get(face.gender, "")
    person = dataclasses.replace(face.person, gender=other if what == "flip-gender" else what)
    return dataclasses.replace(face, person=person)


def described(total: int, here: Fixes, used: Fixes, faces: Sequence[Face]) -> list[str]:
    """What a person reads: a line for each person of `used`, and where the other fixes are."""
    lines = []
    for key, whats in sorted(used.items()):
        photos = [face for face in faces if face.person.key == key]
        changed = set(photos).difference(fixed(photos, used))
        lines.append(f"  {key}: {', '.join(whats)} ({len(changed)} photos)")
    rows, rows_used = (sum(map(len, fixes.values())) for fixes in (here, used))
    head = f"label fixes: {rows_used} of {total} used"
    if rows > rows_used:
        head += f"; {rows - rows_used} of {total} are of persons that training doesn't see"
    if rows < total:
        head += f"; {total - rows} of {total} are of persons that are not here"
    return [head, *lines]
