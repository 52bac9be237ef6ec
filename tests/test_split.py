"""common/data/split.py: no person on both sides, balanced, the same for every task and flag."""

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.base.errors import UserError
from common.data.layout import Face, Person, age_band
from common.data.split import (
    STRATA,
    assign_folds,
    held_out,
    learned_from,
    limited,
    make_split,
    missing_strata,
    parts_by_person,
    split_hash,
    stratum,
)

ROWS = st.lists(
    st.tuples(st.sampled_from(("male", "female")), st.integers(0, 120)), min_size=2, max_size=40
)
VIEWS = ("incorrect_mask", "mask1", "normal")


PARTLY = st.lists(
    st.tuples(
        st.sampled_from(("male", "female", "")), st.integers(0, 120) | st.none(), st.integers(0, 9)
    ), min_size=2, max_size=40,
)  # fmt: skip


def table(rows: list[tuple[str, int]], salt: int = 0) -> list[Person]:
    return [Person(f"{salt}_{i:06d}", gender, age) for i, (gender, age) in enumerate(rows)]


def crowd(per_stratum: int) -> list[Person]:
    """Six strata with `per_stratum` people each."""
    return table([(g, (18, 45, 60)[band]) for g, band in STRATA for _ in range(per_stratum)])


def spread(sizes: list[int]) -> int:
    return max(sizes) - min(sizes)


@settings(max_examples=1000)
@given(rows=ROWS, salt=st.integers(0, 10**6), folds=st.integers(2, 10))
def test_folds_share_no_one_hold_everyone_and_are_balanced(
    rows: list[tuple[str, int]], salt: int, folds: int
) -> None:
    people, folds = table(rows, salt), min(folds, len(rows))
    assignment = assign_folds(people, folds)
    parts = [held_out(assignment, fold) for fold in range(folds)]
    assert sorted(key for part in parts for key in part) == sorted(p.key for p in people)
    assert spread([len(part) for part in parts]) <= 1
    of = {person.key: stratum(person) for person in people}
    for one in STRATA:
        assert spread([sum(of[key] == one for key in part) for part in parts]) <= 1


@settings(max_examples=300)
@given(rows=ROWS, folds=st.integers(2, 10), rng=st.randoms(use_true_random=False))
def test_neither_row_order_nor_years_within_a_band_matter(
    rows: list[tuple[str, int]], folds: int, rng: random.Random
) -> None:
    people, folds = table(rows), min(folds, len(rows))
    assignment = assign_folds(people, folds)
    ranges = ((0, 29), (30, 59), (60, 120))
    others = [
        Person(p.key, p.gender, rng.randint(*ranges[age_band(p.age)]), "else") for p in people
    ]
    rng.shuffle(others)
    again = assign_folds(others, folds)
    assert again == assignment
    assert split_hash(again) == split_hash(assignment)


@settings(max_examples=500)
@given(rows=PARTLY, folds=st.integers(2, 10), rng=st.randoms(use_true_random=False))
def test_people_without_labels_are_dealt_like_others_and_no_human_is_parted(
    rows: list[tuple[str, int | None, int]], folds: int, rng: random.Random
) -> None:
    """Numbers below 4 are of humans with several rows."""
    people = [
        Person(f"{i:06d}", gender, age, columns={"person": str(n) if n < 4 else ""})
        for i, (gender, age, n) in enumerate(rows)
    ]
    humans = {person.human for person in people}
    folds = min(folds, len(humans))
    assignment = assign_folds(people, folds)
    assert assignment.keys() == {person.key for person in people}
    assert len({(p.human, assignment[p.key]) for p in people}) == len(humans)
    assert spread([len({p.human for p in people if assignment[p.key] == fold})
                   for fold in range(folds)]) <= 1  # fmt: skip
    assert assign_folds(rng.sample(people, len(people)), folds) == assignment
    first = {p.human: p for p in reversed(people)}.values()
    assert assign_folds(first, folds).items() <= assignment.items()
    alone = [p for p in people if p.human == p.key]
    if alone == people:
        for one in {stratum(person) for person in people}:
            of = [assignment[p.key] for p in people if stratum(p) == one]
            assert spread([of.count(fold) for fold in range(folds)]) <= 1


@given(rows=ROWS, unlabelled=st.integers(0, 20), folds=st.integers(2, 6))
def test_people_without_labels_move_no_one_with_labels(
    rows: list[tuple[str, int]], unlabelled: int, folds: int
) -> None:
    people, folds = table(rows), min(folds, len(rows))
    more = [Person(f"more{i}", "", None) for i in range(unlabelled)]
    assert assign_folds(people, folds).items() <= assign_folds(people + more, folds).items()


def test_a_label_that_nobody_has_makes_no_strata() -> None:
    nameless = [Person(f"{i}", "", years) for i, years in enumerate((20, 25, 40, 45, 70, 75))]
    assert missing_strata(nameless, "02") == (
        "held-out people per group: <30: 1, 30-59: 1, >=60: 0; groups without anyone aren't "
        "validated"
    )
    assert missing_strata(nameless, "024") == ""
    ageless = [Person(f"{i}", gender, None) for i, gender in enumerate(("male", "female"))]
    assert missing_strata(ageless, "0").startswith(
        "held-out people per group: male: 1, female: 0; "
    )
    assert missing_strata([Person("a", "", None)], "a") == ""


def test_the_split_is_the_same_in_every_version_and_on_every_machine() -> None:
    """Checkpoints carry the hash: the hash of these people must never change."""
    assignment = assign_folds(crowd(3), 3)
    first = held_out(assignment, 0)
    assert [int(key[2:]) for key in first] == [1, 4, 8, 9, 14, 15]
    assert split_hash(assignment) == "1333174885b92a76"


def test_photos_go_where_their_person_goes() -> None:
    faces = [Face(Path(view), view, p) for view in VIEWS for p in crowd(2)]
    parts = parts_by_person(faces, 4)
    assert parts == parts[:12] * 3 and sorted(parts[:12]) == sorted([0, 1, 2, 3] * 3)


def test_the_order_of_dealing_is_not_that_of_the_keys() -> None:
    """Ids follow the order of recording: neighbours must not fall into folds by turns."""
    assignment = assign_folds(table([("male", 20)] * 40), 2)
    assert [assignment[key] for key in sorted(assignment)] not in ([0, 1] * 20, [1, 0] * 20)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_fewer_people_than_folds_are_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"^{count} people can't be split into 5 folds$"):
        assign_folds(crowd(1)[:count], 5)


@settings(max_examples=100)
@given(rows=ROWS, data=st.data())
def test_hash_tells_who_is_in_which_fold(rows: list[tuple[str, int]], data: st.DataObject) -> None:
    assignment = assign_folds(table(rows), 2)
    key = data.draw(st.sampled_from(sorted(assignment)))
    moved = assignment | {key: 1 - assignment[key]}
    gone = {other: fold for other, fold in assignment.items() if other != key}
    hashes = {split_hash(a) for a in (assignment, moved, gone)}
    assert len(hashes) == 3
    assert split_hash(dict(reversed(assignment.items()))) == split_hash(assignment)


def test_a_stratum_without_held_out_people_is_reported_with_all_counts() -> None:
    people = crowd(2)
    keys = [p.key for p in people if stratum(p) != ("female", 2)][1:]
    assert missing_strata(people, keys) == (
        "held-out people per group: male <30: 1, male 30-59: 2, male >=60: 2, female <30: 2, "
        "female 30-59: 2, female >=60: 0; groups without anyone aren't validated"
    )
    assert missing_strata(people, [p.key for p in people][::2]) == ""


@settings(max_examples=200)
@given(rows=ROWS, limit=st.integers(1, 50), rng=st.randoms(use_true_random=False))
def test_limit_takes_a_fixed_sample_sorted_by_key(
    rows: list[tuple[str, int]], limit: int, rng: random.Random
) -> None:
    people = table(rows)
    sample = limited(people, limit)
    assert len(sample) == min(limit, len(people)) and set(sample) <= set(people)
    assert [p.key for p in sample] == sorted(p.key for p in sample)
    assert limited(rng.sample(people, len(people)), limit) == sample
    assert set(sample) <= set(limited(people, limit + 1))
    assert limited(people, None) == people


def test_every_task_validates_on_the_same_people_whatever_its_flags() -> None:
    """Filters and relabelling touch training only: 57 to 61 is where the age flags bite."""
    from age.recipe import AgeRecipe
    from common.training.examples import datasets, make_examples
    from gender.recipe import GenderRecipe
    from mask.recipe import MaskRecipe

    ages = (20, 25, 35, 40, 45, 50, 57, 58, 59, 60, 61)
    people = table([(gender, age) for gender in ("male", "female") for age in ages])
    faces = [Face(Path(p.key, f"{view}.jpg"), view, p) for p in people for view in VIEWS]
    assignment = assign_folds(people, 2)
    recipes = (
        MaskRecipe(),
        GenderRecipe(seed=1, size=(96, 96), crop="none"),
        AgeRecipe(),
        AgeRecipe(loss="dldl"),
        AgeRecipe(drop_ages=((57, 59),), old_from=58),
    )
    for fold, recipe in itertools.product((0, 1), recipes):
        held = set(held_out(assignment, fold))
        expected = [face for face in faces if face.person.key in held]
        made = datasets(
            recipe, make_examples(recipe, faces, held), {face.path: face.path for face in faces}
        )
        training, validation = made.training, made.validation
        assert validation.files == [face.path for face in expected]
        assert validation.labels == [type(recipe)().label(face) for face in expected]
        assert set(validation.augment) == {None}
        assert held.isdisjoint(file.parent.name for file in training.files)
    kept = {file.parent.name for file in training.files}
    assert kept and not {person.age for person in people if person.key in kept} & {57, 58, 59}


def test_a_split_is_of_a_sample_and_names_who_is_held_out() -> None:
    people = crowd(5)
    chosen, split = make_split(people, folds=3, fold=1, limit=12)
    assignment = assign_folds(limited(people, 12), 3)
    assert chosen == set(limited(people, 12))
    assert split == {"folds": 3, "fold": 1, "limit": 12, "hash": split_hash(assignment),
                     "held_out": held_out(assignment, 1)}  # fmt: skip


@given(rows=ROWS, folds=st.integers(2, 10), fold=st.integers(0, 9), limit=st.integers(2, 50))
def test_who_was_learned_from_is_known_of_the_same_table_only(
    rows: list[tuple[str, int]], folds: int, fold: int, limit: int
) -> None:
    people = table(rows)
    folds = min(folds, len(rows), limit)
    chosen, split = make_split(people, folds=folds, fold=fold % folds, limit=limit)
    learned = learned_from(split, people)
    assert learned | set(split["held_out"]) == {person.key for person in chosen}
    assert not learned & set(split["held_out"])
    assert learned_from(split, table(rows, salt=1)) == learned_from(split, people[:1]) == set()
