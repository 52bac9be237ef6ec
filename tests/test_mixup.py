"""common/tools/mixup.py, and the promise that no held-out person reaches training through it."""

import csv
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.layout import Face, Person, age_band, read_faces, read_mixed
from common.data.split import descended, make_split
from common.faces.decode import decode
from common.model import checkpoint
from common.tools import mixup
from common.tools.mixup import Group, by_view, mix, parse_who, plan, summary
from common.training.examples import choose_faces, datasets, make_examples
from mask.recipe import MaskRecipe
from tests.tiny import environment, train_tiny

ROWS = st.lists(
    st.tuples(st.sampled_from(("male", "female")), st.integers(0, 120)), min_size=4, max_size=40
)
EVERYONE = parse_who("0+")
HEADER = ["id", "gender", "race", "age", "path", "parent_a", "parent_b", "weight"]


@pytest.fixture
def home(data: Path, tmp_path: Path) -> Path:
    """A copy of the 12 drawn people: 2 of each gender and age band."""
    shutil.copytree(data / "train", tmp_path / "data" / "train")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def mixed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 12 drawn people and two mixed ones for each; read only."""
    home = tmp_path_factory.mktemp("mixed")
    shutil.copytree(data / "train", home / "train")
    assert mixup.main([str(home), "--who", "0+", "--copies", "2"]) == 0
    return home


def crowd(rows: list[tuple[str, int]]) -> list[Person]:
    return [Person(f"p{i:03d}", gender, age) for i, (gender, age) in enumerate(rows)]


def photos_of(people: list[Person]) -> mixup.PhotosByView:
    return {person: {"normal": Path(person.key)} for person in people}


def table(home: Path) -> list[dict[str, str]]:
    with (home / "train" / "mixed" / "mixed.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def pixels(path: Path) -> np.ndarray:
    return decode(path.read_bytes())


@settings(max_examples=300)
@given(
    rows=ROWS,
    folds=st.integers(2, 4),
    fold=st.integers(0, 3),
    limit=st.none() | st.integers(4, 40),
    copies=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_no_mixed_person_of_a_held_out_parent_is_trained_on(
    rows: list[tuple[str, int]], folds: int, fold: int, limit: int | None, copies: int, seed: int
) -> None:
    people = crowd(rows)
    mixtures = [
        Face(
            Path(one.path),
            "normal",
            Person(f"mixed/{one.path}", one.a.gender, one.age, parents=(one.a.key, one.b.key)),
        )
        for one in plan(photos_of(people), EVERYONE, copies, seed)
    ]
    chosen, split = make_split(people, folds=folds, fold=fold % folds, limit=limit)
    training = {person.key for person in chosen} - set(split["held_out"])
    used = descended(mixtures, training)
    assert all(training.issuperset(face.person.parents) for face in used)
    for face in mixtures:
        outside = set(face.person.parents) - training
        assert (face in used) != bool(outside)


@pytest.mark.parametrize("fold", [0, 1, 2])
@pytest.mark.parametrize("limit", [None, 10])
def test_mixed_people_change_neither_the_split_nor_validation(
    mixed: Path, fold: int, limit: int | None
) -> None:
    faces = read_faces(mixed)
    people, split = make_split({f.person for f in faces}, folds=3, fold=fold, limit=limit)
    held = set(split["held_out"])
    with_mixed, without = (
        choose_faces(MaskRecipe(mixed=mixtures), mixed, faces, people, held)
        for mixtures in (True, False)
    )
    assert without == [face for face in faces if face.person in people]
    assert with_mixed[: len(without)] == without
    mixtures = with_mixed[len(without) :]
    training = {person.key for person in people} - held
    assert mixtures == [f for f in read_mixed(mixed) if training.issuperset(f.person.parents)]
    assert mixtures or limit, "4 of the 12 are held out, so some pair is whole"
    assert held.isdisjoint(face.person.key for face in mixtures)


def test_a_mixed_person_of_a_corrected_parent_is_left_out(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = read_faces(mixed)
    wrong = faces[0].person
    (tmp_path / "fixes.csv").write_text(f"id,what\n{wrong.key},flip-gender\n")
    recipe = MaskRecipe(label_fixes=str(tmp_path / "fixes.csv"))
    chosen = choose_faces(recipe, mixed, faces, {f.person for f in faces}, set())
    parents = {key for face in chosen for key in face.person.parents}
    assert len(parents) == 10 and wrong.key not in parents
    assert "mixed: 20 people, 140 photos (4 left out: " in capsys.readouterr().out


def test_a_mixture_is_the_weighted_mean_of_every_pixel() -> None:
    first = np.array([[[0, 100, 255], [10, 20, 30]]], np.uint8)
    second = np.array([[[200, 50, 255], [20, 10, 31]]], np.uint8)
    expected = [[[140, 65, 255], [17, 13, 31]]]  # 0.3 × first + 0.7 × second, rounded
    assert mix(first, second, 0.3).tolist() == expected


def test_the_second_photo_is_scaled_to_the_first() -> None:
    first = np.full((2, 3, 3), 100, np.uint8)
    second = np.zeros((4, 6, 3), np.uint8)
    second[:2] = 200
    assert mix(first, second, 0.5)[:, :, 0].tolist() == [[150] * 3, [50] * 3]
    assert mix(second, first, 0.5).shape == (4, 6, 3)


def test_photos_are_mixed_view_by_view_with_the_weight_of_the_table(mixed: Path) -> None:
    images = mixed / "train" / "images"
    for row in table(mixed)[::7]:
        folder = mixed / "train" / "mixed" / "images" / row["path"]
        assert len(list(folder.iterdir())) == 7
        for file in folder.iterdir():
            a, b = (pixels(images / row[key] / file.name) for key in ("parent_a", "parent_b"))
            weight = float(row["weight"])
            difference = pixels(file) - (weight * a + (1 - weight) * b)
            assert np.abs(difference).mean() < 2  # what JPEG leaves


def test_the_table_says_who_was_mixed(mixed: Path) -> None:
    rows, people = table(mixed), {f.person.key: f.person for f in read_faces(mixed)}
    assert list(rows[0]) == HEADER
    assert Counter(row["parent_a"] for row in rows) == dict.fromkeys(people, 2)
    assert len({row["path"] for row in rows} | {row["id"] for row in rows}) == 2 * len(rows)
    for row in rows:
        a, b = people[row["parent_a"]], people[row["parent_b"]]
        assert a != b and row["gender"] == a.gender == b.gender and row["race"] == "Drawn"
        assert 0.3 <= float(row["weight"]) <= 0.7
        mean = float(row["weight"]) * a.age + (1 - float(row["weight"])) * b.age
        assert abs(int(row["age"]) - mean) <= 0.5
        assert age_band(int(row["age"])) == age_band(a.age) == age_band(b.age)


def test_mixed_faces_are_read_with_their_parents(mixed: Path) -> None:
    faces = read_mixed(mixed)
    assert len(faces) == 24 * 7 and all(face.path.is_file() for face in faces)
    rows = {f"mixed/{row['path']}": row for row in table(mixed)}
    for face in faces:
        row = rows[face.person.key]
        assert face.person.parents == (row["parent_a"], row["parent_b"])
        assert (face.gender, str(face.age)) == (row["gender"], row["age"])
        assert face.path.parent.name == row["path"]


def test_a_table_of_mixed_people_without_parents_is_refused(home: Path) -> None:
    assert read_mixed(home) == ()
    (home / "train" / "mixed").mkdir()
    file = home / "train" / "mixed" / "mixed.csv"
    file.write_text("id,gender,race,age,path\n1,male,,20,a\n")
    with pytest.raises(UserError, match=f"^{re.escape(str(file))}: no column parent_a, parent_b"):
        read_mixed(home)


@settings(max_examples=200)
@given(rows=ROWS, copies=st.integers(1, 4), seed=st.integers(0, 99), order=st.randoms())
def test_the_plan_depends_on_people_and_seed_alone(rows, copies, seed, order) -> None:
    people = crowd(rows)
    mixtures = plan(photos_of(people), EVERYONE, copies, seed)
    shuffled = order.sample(people, len(people))
    assert plan(photos_of(shuffled), EVERYONE, copies, seed) == mixtures
    sizes = Counter((person.gender, age_band(person.age)) for person in people)
    parents = Counter(one.a for one in mixtures)
    for person in people:
        others = sizes[person.gender, age_band(person.age)] - 1
        assert parents[person] == (copies if others else 0)
        partners = {one.b for one in mixtures if one.a == person}
        assert len(partners) >= min(copies, others)
    for one in mixtures:
        assert one.a != one.b and one.a.gender == one.b.gender
        assert age_band(one.age) == age_band(one.a.age) == age_band(one.b.age)


def test_same_seed_same_bytes_whatever_the_tables_order(home: Path, mixed: Path) -> None:
    file = home / "train" / "train.csv"
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(rows)]) + "\n")
    flags = [str(home), "--who", "0+", "--copies", "2", "--overwrite"]
    assert mixup.main(flags) == 0
    expected = contents(mixed / "train" / "mixed")
    assert contents(home / "train" / "mixed") == expected
    assert mixup.main([*flags, "--seed", "1"]) == 0
    assert contents(home / "train" / "mixed").keys() != expected.keys()


def test_people_are_mixed_within_their_group() -> None:
    """A person of several groups counts in the first."""
    people = crowd([("male", 31), ("male", 39), ("male", 45), ("male", 59), ("female", 35)])
    groups = parse_who("male 30-39,male,female,18")
    mixtures = plan(photos_of(people), groups, 1, 0)
    assert [(e.a.age, e.b.age) for e in mixtures] == [(31, 39), (39, 31), (45, 59), (59, 45)]
    assert summary(mixtures, photos_of(people), groups) == [
        "male 30-39: 2 people → 2 mixed, 2 photos",
        "male: 2 people → 2 mixed, 2 photos",
        "female: 1 people → 0 mixed, 0 photos",
        "18: 0 people → 0 mixed, 0 photos",
        "female: female 30-59 has no other to mix with: p004",
    ]


def test_only_views_that_both_have_are_mixed(home: Path) -> None:
    people = [p for p in {f.person for f in read_faces(home)} if p.gender == "male" and p.age >= 60]
    first, second = sorted(home / "train" / "images" / p.key for p in people)
    for name in ("mask1", "mask2", "normal"):
        (first / f"{name}.jpg").unlink()
    (second / "mask3.jpg").rename(second / "mask9.jpg")
    assert mixup.main([str(home), "--who", "male 60+"]) == 0
    views = [
        {face.view for face in read_mixed(home) if face.person == p}
        for p in {face.person for face in read_mixed(home)}
    ]
    assert views == [{"mask4", "mask5", "incorrect_mask"}] * 2
    for file in [*first.glob("mask*"), *first.glob("incorrect*")]:
        file.unlink()
    shutil.copy(second / "normal.jpg", first / "mask1.jpg")
    (second / "mask1.jpg").unlink()
    assert not plan(by_view(read_faces(home)), parse_who("male 60+"), 1, 0)


GENDER = st.sampled_from(("", "male", "female"))


@given(
    gender=GENDER, first=st.integers(0, 120), more=st.integers(0, 120), kind=st.sampled_from("-+1")
)
def test_groups_are_read_as_they_are_written(gender: str, first: int, more: int, kind: str) -> None:
    last = {"-": min(120, first + more), "+": 120, "1": first}[kind]
    years = {"-": f"{first}-{last}", "+": f"{first}+", "1": str(first)}[kind]
    group = Group(f"{gender} {years}".strip(), gender, first, last)
    assert parse_who(f" {gender.upper()}  {years} ") == (group,)
    everyone = parse_who(f"{gender or 'male'},{years}")
    assert everyone == (
        Group(gender or "male", gender or "male", 0, 120),
        Group(years, "", first, last),
    )
    for age in (first - 1, first, last, last + 1):
        for other in ("male", "female"):
            inside = first <= age <= last and gender in ("", other)
            assert (Person("p", other, age) in group) == inside


@pytest.mark.parametrize(
    "who", ["", "60+,", "men", "male30", "39-30", "60+ male", "-5", "130", "30-", "60++", "٣٠"]
)
def test_groups_that_mean_nothing_are_one_line_and_status_2(
    who: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        mixup.main([str(tmp_path), f"--who={who}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: argument --who: ") and error.count("\n") == 1


def test_an_existing_folder_is_refused_and_replaced_only_on_request(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "train" / "mixed"
    (folder / "images").mkdir(parents=True)
    (folder / "note.txt").write_text("old")
    assert mixup.main([str(home), "--who", "60+"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {folder} exists already: --overwrite replaces it\n"
    assert contents(folder) == {"note.txt": b"old"}
    assert mixup.main([str(home), "--who", "60+", "--overwrite"]) == 0
    assert len(contents(folder)) == 1 + 4 * 7 and not (folder / "note.txt").exists()
    assert {path.name for path in folder.parent.iterdir()} == {"train.csv", "images", "mixed"}


def test_unreadable_photos_are_all_named_and_nothing_is_written(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = sorted((home / "train" / "images").glob("*/mask3.jpg"))
    for file in broken:
        file.write_bytes(b"\xff\xd8\xff half a photo")
    before = contents(home)
    assert mixup.main([str(home), "--who", "0+"]) == 2
    error = capsys.readouterr().err
    assert "error: 12 photos can't be used; nothing was written\n" in error
    assert all(f"  {file}: " in error for file in broken)
    assert contents(home) == before


def test_nobody_to_mix_is_an_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mixup.main([str(home), "--who", "120"]) == 2
    output = capsys.readouterr()
    assert "--who: no group has two people" in output.err and output.err.count("\n") == 1
    assert "120: 0 people → 0 mixed, 0 photos" in output.out
    assert not (home / "train" / "mixed").exists()


def test_mixed_people_are_mixed_trained_on_and_left_out(home: Path, tmp_path: Path) -> None:
    line = "-m common.tools.mixup data --who male,60+ --copies 3"
    done = subprocess.run(
        [sys.executable, *line.split()],
        cwd=tmp_path,
        env=environment(tmp_path),
        text=True,
        capture_output=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    place = Path("data") / "train" / "mixed"
    assert lines[0] == "male: 6 people → 18 mixed, 126 photos"
    assert lines[1] == "60+: 2 people → 6 mixed, 42 photos"
    assert lines[2].startswith(f"{place}: 24 mixed people, 168 photos; ")

    (tmp_path / "without").mkdir()
    _, printed = train_tiny(AgeRecipe, home, tmp_path, "--crop center --epochs 1")
    _, without = train_tiny(
        AgeRecipe, home, tmp_path / "without", "--crop center --epochs 1 --no-mixed"
    )
    split = checkpoint.read(tmp_path / "a.pt")["card"]["split"]
    assert split == checkpoint.read(tmp_path / "without" / "a.pt")["card"]["split"]
    held = set(split["held_out"])
    used = [row for row in table(home) if held.isdisjoint((row["parent_a"], row["parent_b"]))]
    assert len(held) == 4 and 0 < len(used) < 24
    assert (
        f"mixed: {len(used)} people, {7 * len(used)} photos ({24 - len(used)} left out: "
        "a parent is held out, beyond --limit or corrected)\n"
    ) in printed
    assert f"training: {8 + len(used)} people, {7 * (8 + len(used))} photos" in printed
    assert "training: 8 people, 56 photos" in without and "mixed:" not in without
    for output in (printed, without):
        assert "validation: 4 people, 28 photos" in output


def test_label_rules_hold_for_mixed_people(mixed: Path) -> None:
    """Mixed people are dropped and relabelled by their own years."""
    faces = read_faces(mixed)
    ages = sorted({face.age for face in read_mixed(mixed) if 30 <= face.age < 60})
    drop = ((ages[0], ages[0]),)
    recipe = AgeRecipe(loss="focal", drop_ages=drop, old_from=max(31, ages[-1]))
    people, split = make_split({f.person for f in faces}, folds=12, fold=0, limit=None)
    held = set(split["held_out"])
    chosen = choose_faces(recipe, mixed, faces, people, held)
    data = datasets(
        recipe, make_examples(recipe, chosen, held), {face.path: face.path for face in chosen}
    )
    labels = dict(zip(data.training.files, data.training.labels, strict=True))
    mixtures = [face for face in chosen if face.person.parents]
    assert {f.age for f in mixtures if f.path not in labels} == {ages[0]}
    assert {labels[f.path] for f in mixtures if f.age == ages[-1]} == {2}
