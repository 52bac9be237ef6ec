"""common/data/demo.py: layout, tables, codes, determinism, errors, and whether faces are found."""

import csv
import itertools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.base.errors import UserError
from common.tools.demo import dataset as demo
from common.tools.demo.drawing import VIEWS, draw_photo
from common.tools.demo.people import BAND_AGES, draw_age, draw_person

SEED = 3
STEMS = {"mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people to train on, six others to predict."""
    directory = tmp_path_factory.mktemp("demo") / "data"
    demo.draw_dataset(directory, people=6, eval_people=6, seed=SEED, workers=2)
    return directory


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def read_rgb(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1].copy()


def test_only_the_announced_files_are_written(drawn: Path) -> None:
    assert {path.name for path in drawn.iterdir()} == {"train", "eval", "eval_answers.csv"}
    assert {path.name for path in (drawn / "train").iterdir()} == {"train.csv", "images"}
    assert {path.name for path in (drawn / "eval").iterdir()} == {"info.csv", "images"}


def test_training_table_and_folders_agree(drawn: Path) -> None:
    table = rows(drawn / "train" / "train.csv")
    assert list(table[0]) == ["id", "gender", "race", "age", "path"]
    for row in table:
        assert re.fullmatch(r"\d{6}", row["id"])
        assert row["path"] == f"{row['id']}_{row['gender']}_{row['race']}_{row['age']}"
    folders = {path.name for path in (drawn / "train" / "images").iterdir()}
    assert len(table) == 6 and folders == {row["path"] for row in table}


def test_seven_photos_of_the_competitions_size_per_person(drawn: Path) -> None:
    for folder in (drawn / "train" / "images").iterdir():
        assert {path.name for path in folder.iterdir()} == {f"{stem}.jpg" for stem in STEMS}
        assert read_rgb(folder / "mask1.jpg").shape == (512, 384, 3)


def test_every_six_people_are_one_of_each_gender_and_band(drawn: Path) -> None:
    six = list(itertools.product(("female", "male"), (0, 1, 2)))
    table = rows(drawn / "train" / "train.csv")
    assert sorted((row["gender"], int(row["age"]) // 30) for row in table) == six
    people = [demo.person_at(SEED, index) for index in range(12)]
    groups = Counter((person.gender, person.age // 30) for person in people)
    assert groups == dict.fromkeys(six, 2)


def test_eval_tables_list_every_photo_in_the_same_shuffled_order(drawn: Path) -> None:
    info, answers = rows(drawn / "eval" / "info.csv"), rows(drawn / "eval_answers.csv")
    names = [row["ImageID"] for row in info]
    assert list(info[0]) == list(answers[0]) == ["ImageID", "ans"]
    assert names == [row["ImageID"] for row in answers]
    assert {row["ans"] for row in info} == {"0"}
    assert all(re.fullmatch(r"[0-9a-f]{40}\.jpg", name) for name in names)
    assert set(names) == {path.name for path in (drawn / "eval" / "images").iterdir()}
    assert len(set(names)) == 42 and names != sorted(names)


def test_answers_are_what_the_photos_show(drawn: Path) -> None:
    """Every eval photo is recognised by its pixels among freshly drawn ones of known people."""
    wanted = {name: int(code) for name, code in map(dict.values, rows(drawn / "eval_answers.csv"))}
    truth, pictures = [], []
    for index in range(demo.FIRST_EVAL_PERSON, demo.FIRST_EVAL_PERSON + 6):
        person = demo.person_at(SEED, index)
        for view in VIEWS:
            pictures.append(thumbnail(demo.photo_at(person, SEED, index, view)))
            wear = 2 if view == "normal" else 1 if view == "incorrect_mask" else 0
            band = 0 if person.age < 30 else 1 if person.age < 60 else 2
            truth.append(wear * 6 + {"male": 0, "female": 1}[person.gender] * 3 + band)
    for name, code in wanted.items():
        seen = thumbnail(read_rgb(drawn / "eval" / "images" / name))
        distance = [np.abs(seen - picture).mean() for picture in pictures]
        assert min(distance) < 2 and truth[int(np.argmin(distance))] == code
    assert Counter(wanted.values()) == Counter(truth) and set(truth) == set(range(18))


def thumbnail(photo: np.ndarray) -> np.ndarray:
    return cv2.resize(photo, (48, 64), interpolation=cv2.INTER_AREA).astype(np.float32)


def test_no_eval_photo_shows_a_person_of_the_training_table(drawn: Path) -> None:
    train = {demo.person_at(SEED, index) for index in range(6)}
    first = demo.FIRST_EVAL_PERSON
    assert train.isdisjoint(demo.person_at(SEED, index) for index in range(first, first + 6))
    photos = [path.read_bytes() for path in drawn.rglob("*.jpg")]
    assert len(photos) == len(set(photos)) == 12 * 7
    with pytest.raises(UserError, match="--people"):
        demo.draw_dataset(drawn / "more", people=first)


def test_same_bytes_whatever_the_number_of_workers(drawn: Path, tmp_path: Path) -> None:
    demo.draw_dataset(tmp_path, people=6, eval_people=6, seed=SEED, workers=1)
    assert contents(tmp_path) == contents(drawn)


def test_a_person_is_the_same_however_many_are_drawn(drawn: Path, tmp_path: Path) -> None:
    demo.draw_dataset(tmp_path, people=2, eval_people=1, seed=SEED, workers=1)
    fewer, more = contents(tmp_path), contents(drawn)
    photos = {name for name in fewer if name.endswith(".jpg")}
    assert len(photos) == 21 and all(more[name] == fewer[name] for name in photos)


def test_another_seed_draws_other_people() -> None:
    assert demo.person_at(0, 0) != demo.person_at(1, 0)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), view=st.sampled_from(VIEWS))
def test_photo_is_rgb_and_neither_blank_nor_burnt_out(seed: int, view: str) -> None:
    rng = np.random.default_rng(seed)
    photo = draw_photo(draw_person(rng), view, rng)
    assert photo.shape == (512, 384, 3) and photo.dtype == np.uint8
    assert 20 < photo.mean() < 235 and photo.std() > 15


@given(seed=st.integers(0, 2**32), band=st.sampled_from((0, 1, 2)))
def test_age_lies_in_its_band(seed: int, band: int) -> None:
    age = draw_age(np.random.default_rng(seed), band)
    assert age in BAND_AGES[band] and (age >= 30) + (age >= 60) == band


def test_signs_of_age_grow_with_the_years_but_the_bands_overlap() -> None:
    people = [demo.person_at(0, index) for index in range(600)]
    signs = [[p.wrinkles + p.grey for p in people if p.age in ages] for ages in BAND_AGES]
    means = [np.mean(group) for group in signs]
    assert means[0] + 0.3 < means[1] < means[2] - 0.3
    assert max(signs[0]) > min(signs[1]) and max(signs[1]) > min(signs[2])


def test_mtcnn_finds_the_faces() -> None:
    from facenet_pytorch import MTCNN

    detector = MTCNN(device="cpu")

    def found(view: str) -> int:
        photos = (demo.photo_at(demo.person_at(5, n), 5, n, view) for n in range(20))
        return sum(detector.detect(photo)[0] is not None for photo in photos)

    assert found("normal") >= 18
    assert found("mask1") >= 15


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--people", "0"], "--people 0"),
        (["--people", "2000000"], "--people 2000000"),
        (["--eval-people", "-1"], "--eval-people -1"),
        (["--workers", "0"], "--workers 0"),
        (["--seed", "-1"], "--seed -1"),
    ],
)
def test_a_bad_number_is_one_line_and_status_2(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([str(tmp_path / "new"), *flags]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {message}: ") and output.err.count("\n") == 1
    assert output.out == "" and not (tmp_path / "new").exists()


def test_an_existing_data_set_is_refused(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(drawn)
    assert demo.main([str(drawn), "--people", "1"]) == 2
    error = capsys.readouterr().err
    expected = f"error: {drawn / 'train'} exists already: give a new folder or --overwrite\n"
    assert error == expected and contents(drawn) == before


def test_a_folder_that_cannot_be_written_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert demo.main([str(tmp_path / "file" / "data"), "--people", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(tmp_path / "file" / "data") in error


def test_overwrite_replaces_the_data_set_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/old.txt", "eval/old.txt", "eval_answers.csv", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    flags = ["--people", "1", "--eval-people", "1", "--overwrite", "--workers", "1"]
    assert demo.main([str(tmp_path), *flags]) == 0
    files = contents(tmp_path)
    assert files["notes.txt"] == b"old" and len(files) == 1 + 3 + 14
    assert not any(name.endswith("old.txt") for name in files)
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith(f"{tmp_path}: 7 photos of 1 people in train/")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_drawing_leaves_things_as_they_were(
    stop: BaseException | type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "eval_answers.csv").write_text("old")

    def interrupt(*_: object) -> None:
        raise stop

    monkeypatch.setattr(demo, "draw_photo", interrupt)
    with pytest.raises((KeyboardInterrupt, UserError)):
        demo.draw_dataset(tmp_path, people=2, overwrite=True, workers=1)
    assert contents(tmp_path) == {"eval_answers.csv": b"old"}
    assert len(list(tmp_path.iterdir())) == 1


def test_command_and_import_do_without_torch() -> None:
    code = "import sys, common.tools.demo.dataset; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    root = Path(demo.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
