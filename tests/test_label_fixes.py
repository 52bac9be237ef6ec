"""common/data/label_fixes.py: what each fix does, that training alone sees it, and its errors."""

import configparser
import csv
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.base.errors import UserError
from common.data.label_fixes import BUILT_IN, TIERS, WHATS, by_person, fixed, read_fixes
from common.data.layout import Face, Person
from common.data.split import make_split
from common.training.examples import choose_faces, datasets, fixes_for, make_examples
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.tiny import ROOT, train_tiny

VIEWS = ("incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5", "normal")


def person(key: str, gender: str = "male", identity: str = "") -> Person:
    return Person(key, gender, 40, columns={"id": identity} if identity else {})


def photos(*people: Person) -> list[Face]:
    return [Face(Path(p.key, f"{view}.jpg"), view, p) for p in people for view in VIEWS]


def mask_labels(faces: list[Face]) -> dict[str, str]:
    return {f.path.stem: MaskRecipe.classes[MaskRecipe().label(f)] for f in faces}


def table(folder: Path, *rows: str) -> str:
    file = folder / "fixes.csv"
    file.write_text("\n".join(("id,what", *rows)) + "\n")
    return str(file)


@pytest.mark.parametrize(
    ("what", "of_man", "of_woman"),
    [("male", 0, 0), ("female", 1, 1), ("flip-gender", 1, 0), ("swap", 0, 1), ("wear", 0, 1)],
)
def test_gender_is_set_or_flipped(what: str, of_man: int, of_woman: int) -> None:
    faces = photos(person("a", "male"), person("b", "female"))
    after = fixed(faces, {"a": [what], "b": [what]})
    labels = {face.path: GenderRecipe().label(face) for face in after}
    assert labels == {f.path: of_man if f.person.key == "a" else of_woman for f in faces}


def test_swapped_photos_change_places_and_the_others_stay() -> None:
    faces = photos(person("a"), person("b"))
    after = fixed(faces, {"a": ["swap"]})
    official = mask_labels(faces[7:])
    assert mask_labels(after[:7]) == official | {
        "incorrect_mask": "not_wear",
        "normal": "incorrect",
    }
    assert after[7:] == faces[7:]
    assert [face.path for face in after] == [face.path for face in faces]


def test_an_incorrect_mask_can_be_worn_after_all() -> None:
    faces = photos(person("a"))
    after = fixed(faces, {"a": ["wear"]})
    assert mask_labels(after) == mask_labels(faces) | {"incorrect_mask": "wear"}
    assert len({face.view for face in after}) == len(faces)


def test_photos_of_ignored_people_are_gone() -> None:
    faces = photos(person("a"), person("b"))
    assert fixed(faces, {"a": ["ignore", "swap"]}) == faces[7:]


def test_gender_and_views_of_one_person_can_both_be_wrong() -> None:
    faces = photos(person("a"))
    after = fixed(faces, {"a": ["female", "swap"]})
    assert {face.gender for face in after} == {"female"}
    assert mask_labels(after)["normal"] == "incorrect"


PEOPLE = st.lists(
    st.tuples(st.text(min_size=1, max_size=5), st.sampled_from(("male", "female"))),
    max_size=8,
    unique_by=lambda row: row[0],
)


@given(rows=PEOPLE, others=st.dictionaries(st.text(min_size=6, max_size=8), st.sampled_from(WHATS)))
def test_fixes_of_no_one_here_change_nothing(
    rows: list[tuple[str, str]], others: dict[str, str]
) -> None:
    faces = photos(*(person(key, gender) for key, gender in rows))
    assert fixed(faces, {}) == faces
    assert fixed(faces, {key: [what] for key, what in others.items()}) == faces


@given(rows=PEOPLE)
def test_swaps_and_flips_undo_themselves(rows: list[tuple[str, str]]) -> None:
    faces = photos(*(person(key, gender) for key, gender in rows))
    for what in ("swap", "flip-gender"):
        fixes = {key: [what] for key, _ in rows}
        assert all(
            a != b
            for a, b in zip(fixed(faces, fixes), faces, strict=True)
            if what == "flip-gender" or not b.view.startswith("mask")
        )
        assert fixed(fixed(faces, fixes), fixes) == faces


def test_tiers_hold_the_known_errors_each_with_those_before_it() -> None:
    tiers = [read_fixes(tier) for tier in TIERS]
    assert [len(fixes) for fixes in tiers] == [11, 13, 17]
    assert tiers[2][:13] == tiers[1] and tiers[1][:11] == tiers[0]
    core = Counter((fix.id, fix.what) for fix in tiers[0])
    men = (f"00{n}" for n in range(6359, 6365))
    women, swapped = ("001498-1", "004432"), ("000020", "004418", "005227")
    assert core == Counter(
        [(i, "male") for i in men] + [(i, "female") for i in women] + [(i, "swap") for i in swapped]
    )
    single = {(fix.id, fix.what) for fix in tiers[2][11:]}
    assert single == {
        ("005223", "female"),
        ("001720", "male"),
        ("000645", "wear"),
        ("003574", "wear"),
        ("001200", "flip-gender"),
        ("003399", "ignore"),
    }
    with BUILT_IN.open(newline="") as file:
        assert all(row["source"] for row in csv.DictReader(file))


def test_people_are_identified_by_id_or_path(tmp_path: Path) -> None:
    people = [person("1_male", identity="1"), person("2-1_male", identity="2-1"), person("3_male")]
    fixes = read_fixes(table(tmp_path, "1,swap", "2-1_male,female", " 3_male , wear", "4,male"))
    assert by_person(fixes, people) == {
        "1_male": ["swap"],
        "2-1_male": ["female"],
        "3_male": ["wear"],
    }


def test_an_id_of_two_people_asks_for_the_path(tmp_path: Path) -> None:
    """Two people share 003397 in the competition's table."""
    people = [person("3397_a", identity="003397"), person("3397_b", identity="003397")]
    file = table(tmp_path, "1,swap", "003397,female")
    with pytest.raises(UserError) as error:
        by_person(read_fixes(file), people)
    assert str(error.value) == (
        f"{file}: row 3: id '003397' is shared by 2 people; give the path of one instead: "
        "3397_a, 3397_b"
    )
    assert by_person(read_fixes(table(tmp_path, "3397_b,female")), people) == {"3397_b": ["female"]}


@pytest.mark.parametrize("rows", [("male", "female"), ("ignore", "male"), ("swap", "swap")])
def test_a_second_fix_of_the_same_kind_is_refused(rows: tuple[str, str], tmp_path: Path) -> None:
    file = table(tmp_path, f"1,{rows[0]}", f"1_male,{rows[1]}")
    with pytest.raises(UserError, match="row 3: 1_male has such a fix already, see .*: row 2$"):
        by_person(read_fixes(file), [person("1_male", identity="1")])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,what\n1,swap\n2,swop\n", "row 3: what 'swop', expected one of male, female, flip-gen"),
        ("id,what\n1,\n", "row 2: what '', expected one of "),
        ("id,what\n ,swap\n", "row 2: no id"),
        ("id,fix\n1,swap\n", "no column what; found id, fix"),
        ("", "not a CSV table"),
        (None, "no such file; expected core, likely, single, or a table with the columns id and"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(
    text: str | None, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "fixes.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as error:
        read_fixes(str(file))
    message = str(error.value)
    assert str(file) in message and words in message and "\n" not in message


def test_a_training_prints_each_change_and_validation_stays(
    data: Path, faces: tuple[Face, ...], tmp_path: Path
) -> None:
    _, split = make_split({f.person for f in faces}, folds=3, fold=0, limit=None)
    held = split["held_out"]
    first, second, third, *_ = sorted({f.person.key for f in faces} - set(held))
    rows = (f"{held[0]},swap", f"{first},wear", f"{second},ignore", f"{third},swap", "none,male")
    line = f"--label-fixes {table(tmp_path, *rows)} --crop center --epochs 1"
    _, printed = train_tiny(MaskRecipe, data, tmp_path, line)
    assert (
        "label fixes: 3 of 5 used; 1 of 5 are of people who aren't trained on; 1 of 5 are of "
        "people who aren't in the table\n"
        f"  {first}: wear (1 photos)\n  {second}: ignore (7 photos)\n  {third}: swap (2 photos)\n"
    ) in printed
    assert "training: 7 people, 49 photos (wear 36, incorrect 6, not_wear 7)" in printed
    assert "validation: 4 people, 28 photos (wear 20, incorrect 4, not_wear 4)" in printed


def test_validation_keeps_the_tables_labels(
    data: Path, faces: tuple[Face, ...], tmp_path: Path
) -> None:
    people = {face.person for face in faces}
    held = {person.key for person in sorted(people, key=lambda p: p.key)[:4]}
    file = table(tmp_path, *(f"{p.key},flip-gender" for p in people))
    recipe = GenderRecipe(label_fixes=file)
    chosen = choose_faces(recipe, data, faces, people, held)
    made = datasets(
        recipe, make_examples(recipe, chosen, held), {face.path: face.path for face in chosen}
    )
    right = {face.path: recipe.label(face) for face in faces}
    assert made.validation.labels == [right[path] for path in made.validation.files]
    assert made.training.labels == [1 - right[path] for path in made.training.files]
    assert len(made.validation.files) == 28 and len(made.training.files) == 56


def test_fixes_are_refused_before_the_work(data: Path, tmp_path: Path) -> None:
    line = f"--label-fixes cor --cache-dir {tmp_path / 'cache'}"
    with pytest.raises(
        UserError, match="^--label-fixes cor: no such file; expected core, likely, "
    ):
        train_tiny(GenderRecipe, data, tmp_path, line)
    assert not (tmp_path / "cache").exists()


def test_a_tier_is_for_the_competitions_own_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Elsewhere its ids are other people: a few that are the same must change nothing."""
    rows = read_fixes("core")
    people = [person(f"{row.id}_female", identity=row.id) for row in rows]
    faces = [Face(Path("x.jpg"), "normal", p) for p in people]
    used = fixes_for({p.key for p in people}, faces, "core")
    assert len(used) == len(people) == len(rows)
    assert "label fixes: 11 of 11 used" in capsys.readouterr().out
    assert fixes_for({p.key for p in people}, faces[:5], "core") == {}
    output = capsys.readouterr()
    assert output.out == ""
    assert "5 of its 11 ids are in this one, so nothing is fixed" in output.err


def test_the_tiers_are_installed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert BUILT_IN.name in setup["options.package_data"]["common.data"].split()
