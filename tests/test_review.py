"""common/data/review.py: who is listed first, what is proposed, and that training takes it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from age.recipe import AgeRecipe
from common.data import label_fixes
from common.data.label_fixes import read_fixes
from common.data.layout import Face
from common.model.recipe import Recipe
from common.render.sheet import COLUMNS, TILE, contact_sheet
from common.tools.review import label_margins, main, pooled, read_out_of_fold
from common.training.examples import choose_faces, datasets, make_examples
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.tiny import train_tiny

RIGHT = 0.9  # what a model gives the true class, unless a test says otherwise


def oof(
    folder: Path,
    recipe: type[Recipe],
    faces: Sequence[Face],
    believed: dict[tuple[str, str], str] | None = None,
) -> Path:
    """A table as --fold all writes it; `believed` are (person or "", view or "") → class."""
    task = recipe()
    rows = []
    for face in faces:
        true = task.classes[task.label(face)]
        keys = ((face.person.key, face.view), (face.person.key, ""))
        answer = next((believed[key] for key in keys if believed and key in believed), true)
        rest = (1 - RIGHT) / (len(task.classes) - 1)
        shares = {name: RIGHT if name == answer else rest for name in task.classes}
        rows.append(
            {"person": face.person.key, "view": face.view, "fold": 0, "true": true} | shares
        )
    file = folder / f"{task.task[0]}.oof.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def reviewed(file: Path, data: Path, *flags: str) -> pd.DataFrame:
    """The table that the command writes."""
    assert main(["--oof", str(file), "--data", str(data), *flags]) == 0
    out = file.with_name(file.name.replace(".oof.", ".review."))
    return pd.read_csv(out, dtype=str, keep_default_na=False)


def by_person(faces: Sequence[Face]) -> dict[str, list[Face]]:
    found: dict[str, list[Face]] = {}
    for face in faces:
        found.setdefault(face.person.key, []).append(face)
    return found


@given(st.integers(2, 5), st.integers(5, 40), st.randoms(use_true_random=False))
def test_one_wrong_label_among_confident_right_ones_is_first(classes, rows, random):
    labels = np.array([row % classes for row in range(rows)])
    shares = np.array([[random.uniform(0, 0.2 / classes) for _ in range(classes)] for _ in labels])
    shares[np.arange(rows), labels] += 1 - shares.sum(axis=1)
    wrong, shift = random.randrange(rows), random.randrange(1, classes)
    told = labels.copy()
    told[wrong] = (told[wrong] + shift) % classes
    margins, others = label_margins(shares, told)
    assert margins.argmin() == wrong and margins[wrong] < 0 and others[wrong] == labels[wrong]
    if all(np.delete(told, wrong).tolist().count(c) > 1 for c in range(classes)):
        assert (np.delete(margins, wrong) > 0).all()


def test_a_class_that_the_model_is_shy_of_is_not_doubted_as_a_whole():
    """As the oldest in the competition: .4 is much where .4 is the most that they get."""
    shares = np.array([[0.9, 0.1]] * 8 + [[0.55, 0.45], [0.6, 0.4], [0.65, 0.35], [0.99, 0.01]])
    margins, _ = label_margins(shares, np.array([0] * 8 + [1] * 4))
    assert margins.argsort()[0] == 11
    assert (margins[:9] > 0).all()


def test_belief_is_cleanlabs_normalized_margin():
    """Numbers of cleanlab 2.9.0's get_label_quality_scores(…, adjust_pred_probs=True)."""
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4], [0.5, 0.4, 0.1]])
    margins, _ = label_margins(shares, np.array([0, 1, 2, 1]))
    scores = [0.6, 0.566666667, 0.566666667, 0.533333333]
    line = np.polyfit(margins, scores, 1)
    assert np.polyval(line, margins) == pytest.approx(scores) and line[0] > 0


def test_a_persons_photos_are_pooled(data, faces, tmp_path):
    """One photo of seven that is taken for the other gender is no doubt; five are."""
    first, second = sorted(by_person(faces))[:2]
    other = {"male": "female", "female": "male"}
    theirs = by_person(faces)
    believed = {(first, "mask1"): other[theirs[first][0].gender]}
    believed |= {(second, f"mask{i}"): other[theirs[second][0].gender] for i in range(1, 6)}
    table, classes = read_out_of_fold(oof(tmp_path, GenderRecipe, faces, believed))
    people = pooled(table, classes)
    assert len(people) == 12
    assert people[classes].sum(axis=1).to_numpy() == pytest.approx(np.ones(12))
    odds = np.log(people["male"] / people["female"]).abs()
    assert odds[people["person"] == first].item() == pytest.approx(np.log(9) * 5 / 7, rel=1e-3)
    found = reviewed(tmp_path / "g.oof.csv", data)
    assert found["id"].tolist() == [second]


def test_what_fold_all_writes_can_be_reviewed(data, tmp_path, capsys):
    """The command that it prints ends well."""
    _, printed = train_tiny(GenderRecipe, data, tmp_path, "--fold all --epochs 1 --crop center")
    start = "labels in doubt: python -m common.tools.review "
    (line,) = (line for line in printed.splitlines() if line.startswith(start))
    assert main(shlex.split(line.removeprefix(start))) == 0
    assert "of 12 people" in capsys.readouterr().out


def test_the_table_goes_straight_into_training_and_changes_just_these(data, faces, tmp_path):
    theirs = by_person(faces)
    wrong = sorted(theirs)[3:6]
    other = {"male": "female", "female": "male"}
    believed = {(key, ""): other[theirs[key][0].gender] for key in wrong}
    found = reviewed(oof(tmp_path, GenderRecipe, faces, believed), data)
    assert sorted(found["id"]) == wrong and found["rank"].tolist() == ["1", "2", "3"]
    assert found["what"].tolist() == found["believed"].tolist()
    assert found["given"].tolist() == [theirs[key][0].gender for key in found["id"]]
    assert set(found["photo"]) == {"normal"} and set(found["given_probability"]) == {"0.100"}
    recipe = GenderRecipe(label_fixes=str(tmp_path / "g.review.csv"))
    people = {face.person for face in faces}
    held = {wrong[0]}
    chosen = choose_faces(recipe, data, faces, people, held)
    made = datasets(
        recipe, make_examples(recipe, chosen, held), {face.path: face.path for face in chosen}
    )
    right = {face.path: recipe.label(face) for face in faces}
    changed = {
        path.parent.name
        for path, label in zip(made.training.files, made.training.labels, strict=True)
        if label != right[path]
    }
    assert changed == set(wrong[1:])
    assert made.validation.labels == [right[path] for path in made.validation.files]


def test_views_are_swapped_or_worn_and_else_the_person_is_ignored(data, faces, tmp_path):
    first, second, third, fourth, fifth, *_ = sorted(by_person(faces))
    believed = {
        (first, "incorrect_mask"): "not_wear",
        (first, "normal"): "incorrect",
        (second, "incorrect_mask"): "wear",
        (third, "mask2"): "not_wear",
        (fourth, "normal"): "incorrect",  # and so is incorrect_mask: nothing is swapped
    }
    file = oof(tmp_path, MaskRecipe, faces, believed)
    table = pd.read_csv(file)
    row = (table["person"] == fifth) & (table["view"] == "incorrect_mask")
    table.loc[row, list(MaskRecipe.classes)] = 0.3, 0.1, 0.6  # likelier worn, but not likeliest
    table.to_csv(file, index=False)
    found = reviewed(file, data).set_index("id")
    assert found["what"].to_dict() == {
        first: "swap", second: "wear", third: "ignore", fourth: "ignore", fifth: "ignore",
    }  # fmt: skip
    assert found["photo"][third] == "mask2" and found["given"][third] == "wear"
    assert {fix.id for fix in read_fixes(str(tmp_path / "m.review.csv"))} == set(found.index)


def test_an_age_in_doubt_is_left_out(data, faces, tmp_path):
    key = next(face.person.key for face in faces if face.age >= 60)
    found = reviewed(oof(tmp_path, AgeRecipe, faces, {(key, ""): "<30"}), data)
    assert found[["id", "what", "given", "believed"]].to_numpy().tolist() == [
        [key, "ignore", ">=60", "<30"]
    ]


def test_top_earlier_and_overwrite(data, faces, tmp_path, capsys):
    """A table made for one task is taken on by the next; an edited one isn't lost."""
    first, second, third = sorted(by_person(faces))[:3]
    other = {"male": "female", "female": "male"}
    genders = {key: photos[0].gender for key, photos in by_person(faces).items()}
    file = oof(tmp_path, GenderRecipe, faces, {(k, ""): other[genders[k]] for k in (first, second)})
    assert len(reviewed(file, data, "--top", "1")) == 1
    edited = tmp_path / "g.review.csv"
    edited.write_text(f"id,what\n{first},ignore\n{second},{other[genders[second]]}\n")
    assert main(["--oof", str(file), "--data", str(data)]) == 2
    assert f"{edited} exists already: give another --out or --overwrite" in capsys.readouterr().err
    believed = {(first, "mask1"): "not_wear", (second, "incorrect_mask"): "wear"}
    believed[third, "mask1"] = "incorrect"
    masks = oof(tmp_path, MaskRecipe, faces, believed)
    found = reviewed(masks, data, "--earlier", str(edited))
    assert found["id"].tolist()[:2] == [first, second]
    assert sorted(zip(found["id"][2:], found["what"][2:], strict=True)) == [
        (second, "wear"), (third, "ignore"),
    ]  # fmt: skip
    fixes = label_fixes.by_person(
        read_fixes(str(tmp_path / "m.review.csv")), {face.person for face in faces}
    )
    assert fixes == {
        first: ["ignore"], second: [other[genders[second]], "wear"], third: ["ignore"],
    }  # fmt: skip


def test_no_doubt_writes_nothing(data, faces, tmp_path, capsys):
    assert main(["--oof", str(oof(tmp_path, AgeRecipe, faces)), "--data", str(data)]) == 0
    assert capsys.readouterr().out == "a label in doubt: 0 of 12 people\n"
    assert [file.name for file in tmp_path.iterdir()] == ["a.oof.csv"]


def test_the_sheet_shows_each_photo_in_order():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)] * 4
    photos: list[np.ndarray | str] = [np.full((512, 384, 3), c, np.uint8) for c in colours]
    photos[3] = "not a photo of a known format"
    text = "a name that is too long for the tile" * 2
    tiles = [(photo, (f"{i}", text)) for i, photo in enumerate(photos)]
    sheet = np.asarray(contact_sheet(tiles))
    down, across = sheet.shape[0] // 2, sheet.shape[1] // COLUMNS
    for number, colour in enumerate(colours):
        middle = sheet[
            number // COLUMNS * down + TILE[1] // 3, number % COLUMNS * across + across // 2
        ]
        assert tuple(middle) == ((211, 211, 211) if number == 3 else colour)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "fold,",
            "part,",
            "no column fold; found person, view, part, true, male, female; expected",
        ),
        ("true,male,female", "true,male,fe;male", "expected one of male, fe;male"),
        (",0.9,", ",0.5,", "row 2: male, female: expected probabilities whose sum is 1"),
        (",0.9,", ",nan,", "row 2: male, female: expected probabilities whose sum is 1"),
        ("normal", "mask1", "a photo that stands further up already"),
        ("incorrect_mask", "mask9", "--data has no photo mask9 of '000001_"),
        ("000001_", "000999_", "misses 7 of 84 rows in all: was it made from other data?"),
    ],
)
def test_a_table_that_cannot_be_reviewed_is_one_line(
    old, new, words, data, faces, tmp_path, capsys
):
    ordered = sorted(faces, key=lambda face: (face.gender != "male", face.person.key, face.view))
    file = oof(tmp_path, GenderRecipe, ordered)
    text = file.read_text()
    assert old in text
    times = -1 if old == "000001_" else 1
    file.write_text(text.replace(old, new, times))
    assert main(["--oof", str(file), "--data", str(data)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {file}") and words in message and message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["g.oof.csv"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--oof", "none.oof.csv"), "none.oof.csv: No such file"),
        (("--out", "x.png"), "--out x.png: expected a name that ends in .csv"),
        (("--data", "nowhere"), "nowhere: no training data here"),
        (("--earlier", "none.csv"), "none.csv: no such file"),
    ],
)
def test_flags_that_cannot_be_are_refused(flags, words, data, faces, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = oof(tmp_path, GenderRecipe, faces)
    assert main(["--oof", str(file), "--data", str(data), *flags]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["g.oof.csv"]
