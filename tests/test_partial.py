"""Tables that lack labels: a task learns from, and is scored on, the people who have its label."""

import csv
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

import combine
from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.layout import Face, Person, read_faces
from common.model import checkpoint
from common.model.heads import LabelDistributionLoss, MaskedYearsLoss, make_heads
from common.model.loaded import load
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.tiny import train_tiny

Row = dict[str, str]


def relabelled(data: Path, folder: Path, change: Callable[[int, Row], Mapping[str, str]]) -> Path:
    """`data` with the rows of its table changed: `change` gets the number and the row."""
    with (data / "train" / "train.csv").open(newline="") as stream:
        rows = [dict(change(i, row)) for i, row in enumerate(csv.DictReader(stream))]
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "images").symlink_to(data / "train" / "images")
    with (folder / "train" / "train.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def some_unknown(number: int, row: Row) -> Row:
    """Twelve people: four lack a gender, and one of these and two others an age."""
    lacks = {"gender": number in (0, 3, 6, 9), "age": number in (0, 2, 4)}
    return row | {name: "" for name, lack in lacks.items() if lack}


@pytest.fixture
def partly(data: Path, tmp_path: Path) -> Path:
    return relabelled(data, tmp_path / "partly", some_unknown)


@pytest.mark.parametrize(("recipe", "left"), [(MaskRecipe, 0), (GenderRecipe, 4), (AgeRecipe, 3)])
def test_a_task_uses_the_people_who_have_its_label(
    partly: Path, tmp_path: Path, recipe: type, left: int
) -> None:
    status, printed = train_tiny(recipe, partly, tmp_path, "--epochs 1 --crop none")
    assert status == 0
    line = (
        f"left out: {left} of 12 people, {7 * left} of 84 photos: without a label for {recipe.task}"
    )
    assert (line in printed) == bool(left)
    card = checkpoint.read(tmp_path / f"{recipe.task[0]}.pt")["card"]
    people = {face.person.key: face.person for face in read_faces(partly)}
    known = [k for k, p in people.items() if recipe().label(Face(Path(), "normal", p)) is not None]
    held = set(card["split"]["held_out"])
    assert card["metrics"]["photos"] == 7 * len(held & set(known))
    assert f"training: {len(set(known) - held)} people" in printed
    assert f"photos of {len(held & set(known))} people that training never saw" in printed


def test_the_split_is_one_for_all_tasks(partly: Path, tmp_path: Path) -> None:
    splits = []
    for recipe in (MaskRecipe, GenderRecipe, AgeRecipe):
        train_tiny(recipe, partly, tmp_path, "--epochs 1 --crop none --aux")
        splits.append(checkpoint.read(tmp_path / f"{recipe.task[0]}.pt")["card"]["split"])
    assert splits[0] == splits[1] == splits[2]


@pytest.mark.parametrize(
    ("recipe", "column", "words"),
    [
        (GenderRecipe, "gender", "no person has a gender"),
        (AgeRecipe, "age", "no person has an age"),
    ],
)
@pytest.mark.parametrize("way", ["empty", "no column"])
def test_a_label_that_no_one_has_is_refused_before_any_photo_is_opened(
    data: Path, tmp_path: Path, recipe: type, column: str, words: str, way: str
) -> None:
    table = relabelled(
        data,
        tmp_path / "none",
        lambda i, row: without(row, column) if way == "no column" else row | {column: ""},
    )
    cache = tmp_path / "cache"
    with pytest.raises(UserError) as error:
        train_tiny(recipe, table, tmp_path, f"--cache-dir {cache}")
    assert str(error.value).startswith(f"{table / 'train' / 'train.csv'}: {words}: ")
    assert "\n" not in str(error.value) and not cache.exists()


@pytest.fixture
def photos(data: Path, tmp_path: Path) -> Path:
    """The bare faces of `data`, two people of each gender and age band, as photos of unknown view."""
    for face in read_faces(data):
        if face.view == "normal":
            folder = tmp_path / "photos" / "train" / "images" / face.person.key
            folder.mkdir(parents=True)
            (folder / "photo.jpg").symlink_to(face.path)
            (folder / "photo2.jpg").symlink_to(face.path)
    table = tmp_path / "photos" / "train" / "train.csv"
    table.write_bytes((data / "train" / "train.csv").read_bytes())
    return tmp_path / "photos"


def test_photos_of_an_unknown_view_teach_gender_and_age_only(photos: Path, tmp_path: Path) -> None:
    """The default --aux of the gender task, how the mask is worn, can't be learned along."""
    for recipe in (GenderRecipe, AgeRecipe):
        status, printed = train_tiny(recipe, photos, tmp_path, "--epochs 1 --crop none")
        assert status == 0 and "training: 8 people, 16 photos" in printed
        note = "note: --aux mask: left out, the data have no two values of it"
        assert (note in printed) == (recipe is GenderRecipe)
    assert load(tmp_path / "g.pt", GenderRecipe).recipe.aux == ("years",)
    with pytest.raises(UserError, match="train.csv: no photo's name says how a mask is worn"):
        train_tiny(MaskRecipe, photos, tmp_path)


def test_a_class_without_photos_is_refused_before_any_photo_is_opened(
    data: Path, tmp_path: Path
) -> None:
    table = relabelled(data, tmp_path / "men", lambda i, row: row | {"gender": "male"})
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match="no training photo of class female"):
        train_tiny(GenderRecipe, table, tmp_path, f"--cache-dir {cache}")
    assert not cache.exists()


def test_a_fold_in_which_nobody_is_labelled_is_refused(data: Path, tmp_path: Path) -> None:
    table = relabelled(
        data, tmp_path / "few", lambda i, row: row if i < 2 else row | {"gender": ""}
    )
    words = "nobody who has a label for gender is held out"
    with pytest.raises(UserError, match=words):
        train_tiny(GenderRecipe, table, tmp_path, "--fold 2")


def test_heads_ignore_missing_labels(partly: Path) -> None:
    faces = read_faces(partly)
    recipe = dataclasses.replace(MaskRecipe(), aux=("years", "gender"))
    years, gender = make_heads(recipe, faces)
    for face in faces:
        assert years.label(face) == (-1 if face.age is None else face.age)
        assert gender.label(face) == {"female": 0, "male": 1, "": -1}[face.gender]
    logits = torch.randn(len(faces), 101, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([years.label(face) for face in faces])
    known = labels >= 0
    expected = LabelDistributionLoss(0, 100, 3.0, expectation=0.0)(logits[known], labels[known])
    assert isinstance(years.criterion, MaskedYearsLoss)
    assert torch.equal(years.criterion(logits, labels), expected)
    assert years.criterion(logits[~known], labels[~known]) == 0


def test_the_honest_score_is_of_those_with_every_label(
    partly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for recipe in (MaskRecipe, GenderRecipe, AgeRecipe):
        train_tiny(recipe, partly, tmp_path, "--fold all --epochs 1 --crop none --aux")
    files = (
        word
        for letter in "mga"
        for word in (
            f"--{ {'m': 'mask', 'g': 'gender', 'a': 'age'}[letter] }",
            *(str(tmp_path / f"{letter}.fold{i}.pt") for i in range(3)),
        )
    )
    capsys.readouterr()
    assert combine.main([*files, "--held-out", "--data", str(partly), "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    complete = {f.person for f in read_faces(partly) if f.gender and f.age is not None}
    left = 12 - len(complete)
    line = f"left out: {left} of 12 people, {7 * left} of 84 photos: a task's label is missing"
    assert line in printed
    assert f"on {len(complete)} people" in printed and f"({7 * len(complete)} photos)" in printed


def test_years_clipped_in_one_table_are_clipped_in_all() -> None:
    """A person labelled "60" because the table ends there may be older."""

    def people(*ages: int | None) -> list[Person]:
        return [Person(f"p{age}", "male", age) for age in ages]

    recipe = AgeRecipe()
    assert recipe.fitted(people(18, 60), people(1, 90)).bins == "1-60"
    assert recipe.fitted(people(1, 90), people(20, 60, None)).bins == "1-60"
    assert recipe.fitted(people(18, 59), people(1, 90)).bins == "0-100"
    assert recipe.fitted(people(18, 60), people(None)).bins == "18-60"
