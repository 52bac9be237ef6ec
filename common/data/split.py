"""Split by person: every task and every flag sees the same folds of the same table."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from common.base.errors import UserError
from common.data.layout import AGE_BORDERS, GENDERS, Face, Person, age_band

BANDS = tuple(range(len(AGE_BORDERS) + 1))
STRATA = tuple((gender, band) for gender in GENDERS for band in BANDS)
_ORDER = (
    *STRATA, *((gender, None) for gender in GENDERS), *(("", band) for band in BANDS), ("", None),
)  # fmt: skip


def shuffled(people: Iterable[Person]) -> list[Person]:
    """The persons in an order that depends on their keys alone, not on the table's order."""
    return sorted(people, key=lambda person: hashlib.sha256(person.key.encode()).digest())


def stratum(person: Person) -> tuple[str, int | None]:
    """What folds are balanced on: gender and age band; "" and None where they aren't known."""
    return person.gender, None if person.age is None else age_band(person.age)


def assign_folds(people: Collection[Person], folds: int) -> dict[str, int]:
    """Person key → fold, stratified on gender × age band.

    Persons are dealt out like cards, one stratum after another, so the folds' sizes differ by at
    most one in total and in each stratum; those who lack a label come last. A digest of the key
    orders them: no random state, no library version and no row order changes the outcome. All rows
    of one human go where the one with the first key goes. UserError for fewer persons than folds.
    """
    ranked = sorted(people, key=lambda person: person.key, reverse=True)
    first = {person.human: person for person in ranked}.values()
    if len(first) < folds:
        raise UserError(f"{len(first)} persons can't be split into {folds} folds")
    dealt = sorted(shuffled(first), key=lambda person: _ORDER.index(stratum(person)))
    fold = {person.human: place % folds for place, person in enumerate(dealt)}
    return {person.key: fold[person.human] for person in people}


def parts_by_person(faces: Collection[Face], parts: int) -> list[int]:
    """Which of `parts` the person of each photo is dealt to, as folds are.

    UserError for fewer persons than parts.
    """
    assignment = assign_folds({face.person for face in faces}, parts)
    return [assignment[face.person.key] for face in faces]


def split_hash(assignment: Mapping[str, int]) -> str:
    """A digest of who is in which fold; equal digests mean the same split."""
    lines = "\n".join(f"{key}\t{fold}" for key, fold in sorted(assignment.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def held_out(assignment: Mapping[str, int], fold: int) -> list[str]:
    """Keys of the persons that validate `fold`, sorted."""
    return sorted(key for key, other in assignment.items() if other == fold)


def descended(extra: Iterable[Face], training: Collection[str]) -> list[Face]:
    """The photos of mixed persons whose parents are all among `training`, keys of real persons.

    A parent that is held out would be seen in training through the mixture.
    """
    return [face for face in extra if all(key in training for key in face.person.parents)]


def missing_strata(people: Iterable[Person], keys: Iterable[str]) -> str:
    """A warning with counts where a gender × age band has no one among `keys`, else "".

    A label that nobody here has makes no groups.
    """
    people, chosen = list(people), set(keys)
    counts = Counter(stratum(person) for person in people if person.key in chosen)
    genders = GENDERS if any(person.gender for person in people) else ("",)
    bands = BANDS if any(person.age is not None for person in people) else (None,)
    expected = [(gender, band) for gender in genders for band in bands]
    if all(counts[s] for s in expected):
        return ""
    shown = (f"{describe_stratum(*s)}: {counts[s]}" for s in expected)
    return f"a gender and age group has no one in the held-out fold; persons: {', '.join(shown)}"


def describe_stratum(gender: str, band: int | None) -> str:
    """A stratum in words: male from 30, and without what isn't known."""
    years = "" if band is None else f"from {(0, *AGE_BORDERS)[band]}"
    return f"{gender} {years}".strip()


def limited(people: Iterable[Person], limit: int | None) -> list[Person]:
    """The persons sorted by key, or a fixed sample of `limit` of them."""
    chosen = shuffled(people)[:limit]
    return sorted(chosen, key=lambda person: person.key)


def make_split(
    people: Iterable[Person], *, folds: int, fold: int, limit: int | None
) -> tuple[set[Person], dict[str, Any]]:
    """The persons that take part, and their split as a checkpoint's card holds it."""
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
    """Keys of the `people` that a training with `split`, as `make_split` says it, learned from.

    No one where that was another table, which has another hash or too few persons.
    """
    settings = {name: split[name] for name in ("folds", "fold", "limit")}
    try:
        chosen, found = make_split(people, **settings)
    except UserError:
        return set()
    same = found["hash"] == split["hash"]
    return {person.key for person in chosen} - set(split["held_out"]) if same else set()
