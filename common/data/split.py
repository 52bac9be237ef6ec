"""Split by person: the folds of a table are the same for all tasks and flags."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from common.base.errors import UserError
from common.data.layout import AGE_GROUPS, GENDERS, Face, Person, age_band

BANDS = tuple(range(len(AGE_GROUPS)))
STRATA = tuple((gender, band) for gender in GENDERS for band in BANDS)
_ORDER = (
    *STRATA,
    *((gender, None) for gender in GENDERS),
    *(("", band) for band in BANDS),
    ("", None),
)


def shuffled(people: Iterable[Person]) -> list[Person]:
    """Put people in an order that depends on their keys only, not on the table's order."""
    return sorted(people, key=lambda person: hashlib.sha256(person.key.encode()).digest())


def stratum(person: Person) -> tuple[str, int | None]:
    """Gender and age band, on which folds are balanced; "" and None if unknown."""
    return person.gender, None if person.age is None else age_band(person.age)


def assign_folds(people: Collection[Person], folds: int) -> dict[str, int]:
    """Person key → fold, stratified on gender × age band.

    People are dealt out like cards, one stratum after another, so the folds' sizes differ by at
    most one in total and in each stratum; people without a label come last. Their order follows
    from a digest of the key: no random state, no library version and no row order matters. All rows
    of one human are in the fold of the first key.

    Raises:
        UserError: there are fewer people than folds.
    """
    ranked = sorted(people, key=lambda person: person.key, reverse=True)
    first = {person.human: person for person in ranked}.values()
    if len(first) < folds:
        raise UserError(f"{len(first)} people can't be split into {folds} folds")
    dealt = sorted(shuffled(first), key=lambda person: _ORDER.index(stratum(person)))
    fold = {person.human: place % folds for place, person in enumerate(dealt)}
    return {person.key: fold[person.human] for person in people}


def parts_by_person(faces: Collection[Face], parts: int) -> list[int]:
    """Number of the part, 0 to `parts` - 1, of each photo's person; parts are made like folds.

    Raises:
        UserError: there are fewer people than parts.
    """
    assignment = assign_folds({face.person for face in faces}, parts)
    return [assignment[face.person.key] for face in faces]


def split_hash(assignment: Mapping[str, int]) -> str:
    """Digest of people and their folds; equal digests mean the same split."""
    lines = "\n".join(f"{key}\t{fold}" for key, fold in sorted(assignment.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def held_out(assignment: Mapping[str, int], fold: int) -> list[str]:
    """Keys of the people held out in `fold`, sorted."""
    return sorted(key for key, other in assignment.items() if other == fold)


def descended(mixed: Iterable[Face], training: Collection[str]) -> list[Face]:
    """Photos of mixed people whose parents are all among `training`, keys of real people.

    A parent that is held out would otherwise be seen in training through the mixture.
    """
    return [face for face in mixed if all(key in training for key in face.person.parents)]


def missing_strata(people: Iterable[Person], keys: Iterable[str]) -> str:
    """Warn with counts if a gender × age band of `people` has no one among `keys`; else "".

    Attributes that are missing from the whole table are ignored.
    """
    people, chosen = list(people), set(keys)
    counts = Counter(stratum(person) for person in people if person.key in chosen)
    genders = GENDERS if any(person.gender for person in people) else ("",)
    bands = BANDS if any(person.age is not None for person in people) else (None,)
    expected = [(gender, band) for gender in genders for band in bands]
    if all(counts[s] for s in expected):
        return ""
    shown = ", ".join(f"{describe_stratum(*s)}: {counts[s]}" for s in expected)
    return f"held-out people per group: {shown}; groups without anyone aren't validated"


def describe_stratum(gender: str, band: int | None) -> str:
    """Name a stratum: "male 30-59", without what is unknown."""
    return f"{gender} {'' if band is None else AGE_GROUPS[band]}".strip()


def limited(people: Iterable[Person], limit: int | None) -> list[Person]:
    """All people, or a fixed sample of `limit` of them, sorted by key."""
    chosen = shuffled(people)[:limit]
    return sorted(chosen, key=lambda person: person.key)


def make_split(
    people: Iterable[Person], *, folds: int, fold: int, limit: int | None
) -> tuple[set[Person], dict[str, Any]]:
    """Choose the people that take part; returns them, and their split as a card stores it."""
    chosen = limited(people, limit)
    assignment = assign_folds(chosen, folds)
    return set(chosen), {
        "folds": folds,
        "fold": fold,
        "limit": limit,
        "hash": split_hash(assignment),
        "held_out": held_out(assignment, fold),
    }


def learned_from(split: Mapping[str, Any], people: Iterable[Person]) -> set[str]:
    """Keys of the `people` that a training with this `split`, from `make_split`, learned from.

    The set is empty if that was another table, which has another hash or too few people.
    """
    settings = {name: split[name] for name in ("folds", "fold", "limit")}
    try:
        chosen, again = make_split(people, **settings)
    except UserError:
        return set()
    same = again["hash"] == split["hash"]
    return {person.key for person in chosen} - set(split["held_out"]) if same else set()
