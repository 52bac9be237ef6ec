"""--pseudo: unlabelled photos that training learns from with predicted probabilities."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.layout import read_faces
from common.data.pseudo import DrawnTarget, read_pseudo
from common.model import checkpoint
from mask.recipe import MaskRecipe
from tests.tiny import train_tiny

CLASSES = MaskRecipe.classes


def table(data: Path, file: Path, task: str = "mask", classes: tuple[str, ...] = CLASSES) -> Path:
    """Write probabilities of the data set's photos to predict, as combine.py --probs does."""
    names = pd.read_csv(data / "eval" / "info.csv").ImageID
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(len(classes)), len(names)).round(6)
    columns = {f"{task}_{name}": chances[:, i] for i, name in enumerate(classes)}
    pd.DataFrame({"ImageID": names, **columns, "face_found": True}).to_csv(file, index=False)
    return file


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=5), st.integers(0, 2**32 - 1))
def test_targets_are_drawn_as_often_as_they_are_probable(weights: list[float], first: int) -> None:
    probabilities = tuple(weight / sum(weights) for weight in weights)
    target = DrawnTarget(probabilities, tuple(range(len(weights))))
    drawn = [target.drawn((first + i) % 2**32) for i in range(2000)]
    shares = np.bincount(drawn, minlength=len(weights)) / len(drawn)
    assert np.abs(shares - probabilities).max() < 0.06
    assert target.drawn(first) == target.drawn(first)


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [(MaskRecipe, ""), (AgeRecipe, "--mixup 0.4"), (AgeRecipe, "--loss focal --aux years gender")],
)
def test_training_learns_from_them_and_validates_as_without(
    data: Path, tmp_path: Path, recipe: type, flags: str
) -> None:
    file = table(data, tmp_path / "probs.csv", recipe.task, recipe.classes)
    number = len(pd.read_csv(file))
    line = f"--epochs 1 --crop none {flags}"
    cards = []
    for name, pseudo in (("without", ""), ("with", f"--pseudo {file}")):
        (tmp_path / name).mkdir()
        status, printed = train_tiny(recipe, data, tmp_path / name, f"{line} {pseudo}")
        assert status == 0
        cards.append(checkpoint.read(tmp_path / name / f"{recipe.task[0]}.pt")["card"])
    assert f"pseudo-labels: {file}: {number} photos" in printed
    assert f"training: 8 people, {56 + number} photos" in printed
    without, with_pseudo = cards
    assert with_pseudo["split"].pop("extra")
    assert without["split"] == with_pseudo["split"]
    assert without["metrics"]["photos"] == with_pseudo["metrics"]["photos"] == 28
    assert len(with_pseudo["learned"]) > len(without["learned"])


def test_photos_of_held_out_people_are_left_out(data: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(data / "eval" / "images", images)
    file = table(data, tmp_path / "probs.csv")
    names = pd.read_csv(file).ImageID
    status, _ = train_tiny(MaskRecipe, data, tmp_path, "--epochs 1 --crop none")
    held = checkpoint.read(tmp_path / "m.pt")["card"]["split"]["held_out"]
    photo = next(face.path for face in read_faces(data) if face.person.key == held[0])
    shutil.copy(photo, images / names[0])
    flags = f"--epochs 1 --crop none --pseudo {file} --pseudo-images {images}"
    status, printed = train_tiny(MaskRecipe, data, tmp_path, flags)
    assert status == 0
    left = f"{len(names) - 1} photos (1 left out, which show someone held out)"
    assert f"pseudo-labels: {file}: {left}" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="mask_wear"), "no column mask_wear"),
        (
            lambda t: t.assign(mask_wear=0.9),
            "rows have no probabilities that add up to 1\n  row 2: ",
        ),
        (lambda t: t.assign(mask_wear="much"), "row 2: "),
        (lambda t: pd.concat([t, t[:1]]), "stands twice"),
        (lambda t: t.assign(ImageID="../" + t.ImageID), "photos are not in"),
        (lambda t: t[:1].assign(ImageID="gone.jpg"), "1 of 1 photos are not in"),
        (lambda t: t.assign(**dict.fromkeys(t.columns[1:4], "")), "no row has probabilities"),
    ],
)
def test_bad_tables_are_refused(data: Path, tmp_path: Path, change: object, message: str) -> None:
    file = table(data, tmp_path / "probs.csv")
    change(pd.read_csv(file)).to_csv(file, index=False)
    with pytest.raises(UserError) as error:
        read_pseudo(file, data / "eval" / "images", "mask", CLASSES)
    assert str(file) in str(error.value)
    assert message in str(error.value)
