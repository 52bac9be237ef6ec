"""--extra: more data sets to train on, of whom nobody validates or is someone who does."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.extra import read_extra
from common.data.layout import read_faces
from common.model import checkpoint
from common.tools.demo.dataset import draw_dataset
from common.training.command import parse
from common.training.experiments import changes
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.conftest import SEED
from tests.tiny import train_tiny


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six other drawn people, whose keys could be those of `data`."""
    folder = tmp_path_factory.mktemp("others")
    draw_dataset(folder, people=6, eval_people=6, seed=SEED + 1, workers=1)
    return folder


LINE = "--epochs 1 --crop none --aux"


def test_people_of_extra_are_trained_on_and_change_neither_split_nor_validation(
    data: Path, others: Path, tmp_path: Path
) -> None:
    cards = []
    for name, extra in (("without", ""), ("with", f"--extra {others}")):
        (tmp_path / name).mkdir()
        status, printed = train_tiny(GenderRecipe, data, tmp_path / name, f"{LINE} {extra}")
        assert status == 0
        cards.append(checkpoint.read(tmp_path / name / "g.pt")["card"])
    assert f"extra: {others}: 6 people, 42 photos\n" in printed
    assert "training: 14 people, 98 photos" in printed
    without, with_extra = (card["split"] for card in cards)
    assert len(with_extra.pop("extra")) == 1
    assert without == with_extra
    assert [card["metrics"]["photos"] for card in cards] == [28, 28]


def test_nobody_with_a_held_out_photo_is_trained_on(
    data: Path, others: Path, tmp_path: Path
) -> None:
    """One photo is enough: it is the same person. The same names alone are not."""
    extra = tmp_path / "extra"
    shutil.copytree(others / "train", extra / "train")
    faces = read_faces(data)
    ours = sorted({face.person.key for face in faces})
    theirs = sorted({face.person.key for face in read_faces(extra)})
    copied = {key: next(f.path for f in faces if f.person.key == key) for key in ours[:3]}
    for path, key in zip(copied.values(), theirs, strict=False):
        shutil.copy(path, extra / "train" / "images" / key / "mask7.jpg")
    status, printed = train_tiny(MaskRecipe, data, tmp_path, f"{LINE} --fold all --extra {extra}")
    assert status == 0
    for fold in range(3):
        held = checkpoint.read(tmp_path / f"m.fold{fold}.pt")["card"]["split"]["held_out"]
        left = len(copied.keys() & set(held))
        seen = read_extra([extra], data, faces)[0].unseen(set(held))
        assert {f.person.key.removeprefix("extra1/") for f in seen} == {
            key for key, own in zip(theirs, (*ours[:3], *[""] * 3), strict=True) if own not in held
        }
        words = f"({left} people left out, who have the same photo as someone held out)"
        assert not left or words in printed


def bigger(photo: Image.Image) -> Image.Image:
    return photo.resize((photo.width * 3 // 2, photo.height * 3 // 2))


SAVED_AGAIN = {
    "jpeg 90": (lambda photo: photo, "JPEG", {"quality": 90}),
    "jpeg 40": (lambda photo: photo, "JPEG", {"quality": 40}),
    "progressive": (lambda photo: photo, "JPEG", {"progressive": True}),
    "png": (lambda photo: photo, "PNG", {}),
    "webp": (lambda photo: photo, "WEBP", {"quality": 80}),
    "half": (lambda photo: photo.resize((photo.width // 2, photo.height // 2)), "JPEG", {}),
    "bigger": (bigger, "JPEG", {}),
    "gray": (lambda photo: photo.convert("L"), "JPEG", {}),
    "another shape": (lambda photo: photo.resize((300, 200)), "JPEG", {}),
}


@pytest.mark.parametrize("change", SAVED_AGAIN)
def test_photos_saved_again_are_the_same_person(
    data: Path, others: Path, tmp_path: Path, change: str
) -> None:
    """Of everyone one photo, under another name; nobody else looks like one of them."""
    redraw: Callable[[Image.Image], Image.Image]
    redraw, kind, settings = SAVED_AGAIN[change]
    extra = tmp_path / "extra"
    shutil.copytree(others / "train", extra / "train")
    faces = read_faces(data)
    ours = sorted({face.person.key for face in faces})
    theirs = sorted({face.person.key for face in read_faces(extra)})[:4]
    for key, other in zip(ours, theirs, strict=False):
        with Image.open(next(f.path for f in faces if f.person.key == key)) as photo:
            suffix = {"JPEG": "jpg"}.get(kind, kind.lower())
            target = extra / "train" / "images" / other / f"mask7.{suffix}"
            redraw(photo.convert("RGB")).save(target, kind, **settings)
    (found,) = read_extra([extra], data, faces)
    assert found.twins == {
        f"extra1/{other}": {key} for key, other in zip(ours, theirs, strict=False)
    }
    kept = {face.person.key for face in found.unseen(set(ours[:3]))}
    assert kept.isdisjoint(f"extra1/{other}" for other in theirs[:3])
    assert f"extra1/{theirs[3]}" in kept


def test_the_same_folder_twice_is_refused(data: Path, others: Path, tmp_path: Path) -> None:
    for line, words in (
        (
            f"--extra {data / 'train'}",
            f"--extra {data / 'train'}: the same folder as --data {data}",
        ),
        (f"--extra {others} {others}/train", f"the same folder as --extra {others}"),
        (f"--extra {tmp_path}", f"{tmp_path}: no training data here"),
    ):
        with pytest.raises(UserError) as error:
            train_tiny(GenderRecipe, data, tmp_path, line)
        assert words in str(error.value)


def test_weights_that_saw_this_table_as_an_extra_one_are_refused(
    data: Path, others: Path, tmp_path: Path
) -> None:
    train_tiny(GenderRecipe, others, tmp_path, f"{LINE} --extra {data}")
    with pytest.raises(UserError, match="saw everyone of this table, as --extra"):
        train_tiny(AgeRecipe, data, tmp_path, f"{LINE} --weights {tmp_path / 'g.pt'}")


def test_a_resumed_run_reads_the_same_folders(data: Path, others: Path, tmp_path: Path) -> None:
    train_tiny(GenderRecipe, data, tmp_path, f"{LINE} --extra {others}")
    line = f"--resume --log-dir {tmp_path / 'runs'}".split()
    _, run = parse(GenderRecipe, line)
    assert run.extra == (others,)
    assert f"--extra {others}" in changes(GenderRecipe(), run)
    status, printed = train_tiny(GenderRecipe, data, tmp_path, "--resume")
    assert status == 0 and "nothing left to train" in printed
