"""common/data/convert.py: other data sets in the layout, nothing lost, altered or half-written."""

import csv
import os
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.labels import Years, parse_word, parse_years
from common.data.layout import AGE_GROUPS, GENDERS, age_band, read_faces
from common.data.split import assign_folds
from common.tools import convert, sources
from common.tools.sources import Labels, parse_name
from gender.recipe import GenderRecipe
from tests.tiny import train_tiny

YEARS = st.integers(0, 120)


@pytest.fixture(scope="session")
def bare(data: Path) -> list[Path]:
    """Twelve photos of bare faces, two of each gender and age band."""
    return [face.path for face in read_faces(data) if face.view == "normal"]


def run(*words: object) -> int:
    return convert.main([*map(str, words), "--workers", "0"])


def put(photo: Path, *files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, file)


def table(folder: Path, *rows: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faces.csv").write_text("\n".join((*rows, "")))
    return folder / "faces.csv"


def rows(target: Path) -> list[dict[str, str]]:
    with (target / "train" / "train.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def found(target: Path) -> dict[str, tuple[str, str, int | None]]:
    """Original file name → view, gender, age of a converted data set."""
    with (target / "train" / "sources.csv").open(newline="") as stream:
        origins = {row["photo"]: Path(row["source"]).name for row in csv.DictReader(stream)}
    faces = read_faces(target)
    assert len(origins) == len(faces)
    return {
        origins[f"{f.person.key}/{f.path.name}"]: (f.view, f.gender, f.age) for f in faces
    }  # fmt: skip


@given(YEARS, st.integers(0, 1), st.integers(0, 4), st.integers(0, 10**17), st.booleans())
def test_utkface_names_say_age_gender_and_race(
    age: int, gender: int, race: int, date: int, chip: bool
) -> None:
    name = f"{age}_{gender}_{race}_{date}.jpg{'.chip.jpg' * chip}"
    labels, years, word = parse_name(name)
    assert labels == Labels("", GENDERS[gender], str(age))
    assert years == (age, age) and word == ("White", "Black", "Asian", "Indian", "Others")[race]
    parts = name.split("_")
    for missing in range(3):
        with pytest.raises(ValueError, match="age_gender_race_date"):
            parse_name("_".join(parts[:missing] + parts[missing + 1 :]))
        with pytest.raises(ValueError, match="age_gender_race_date"):
            parse_name("_".join([*parts[:missing], "", *parts[missing + 1 :]]))


@pytest.mark.parametrize(
    "name", ["121_0_0_1.jpg", "20_2_0_1.jpg", "20_0_5_1.jpg", "a.jpg", "1.jpg"]
)
def test_names_that_are_not_utkfaces(name: str) -> None:
    with pytest.raises(ValueError, match="age_gender_race_date"):
        parse_name(name)


@given(YEARS, YEARS, st.sampled_from(("{}-{}", "{} - {}", "({}, {})", "{}_{}", "{} to {}")))
def test_a_range_is_a_group_where_one_holds_all_of_it(a: int, b: int, spelling: str) -> None:
    first, last = sorted((a, b))
    years = parse_years(spelling.format(first, last))
    assert years == (first, last)
    low, high = age_band(first), age_band(last)
    expected = str(first) if first == last else AGE_GROUPS[low] if low == high else ""
    assert years.cell == expected
    if a > b:
        with pytest.raises(ValueError, match="expected years"):
            parse_years(spelling.format(a, b))


@pytest.mark.parametrize(
    ("text", "cell"),
    [("0-2", "<30"), ("20-29", "<30"), ("30-39", "30-59"), ("50-59", "30-59"), ("60-69", ">=60"),
     ("more than 70", ">=60"), ("60+", ">=60"), ("over_60", ">=60"), (">=60", ">=60"), ("<30", "<30"),
     ("under 30", "<30"), ("<= 29", "<30"), (" 25 ", "25"), ("25.7", "25"), ("007", "7"),
     ("25-35", ""), ("29+", ""), ("<31", ""), ("more than 29", ""), ("60 and over", ">=60")],
)  # fmt: skip
def test_ages_as_data_sets_spell_them(text: str, cell: str) -> None:
    assert parse_years(text).cell == cell


@given(st.text(max_size=12))
def test_an_age_is_read_or_refused(text: str) -> None:
    try:
        years = parse_years(text)
    except ValueError:
        pass
    else:
        assert years is None or 0 <= years.first <= years.last <= 120


@pytest.mark.parametrize(
    ("text", "word"),
    [("WithMask", "mask"), ("with_mask", "mask"), ("mask", "mask"), ("without mask", "normal"),
     ("not_wear", "normal"), ("incorrect", "incorrect_mask"), ("IMFD", "incorrect_mask"),
     ("unknown", ""), ("", "")],
)  # fmt: skip
def test_words_for_a_mask(text: str, word: str) -> None:
    assert parse_word(text, sources.MASK_WORDS) == word


def test_utkface_becomes_the_layout(
    bare: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["25_0_1_2017.jpg", "59_1_3_2017.jpg.chip.jpg", "60_1_0_2017.JPG"]
    for photo, name, part in zip(bare, names, ("a", "b", "b/c"), strict=False):
        put(photo, tmp_path / "utk" / part / name)
    (tmp_path / "utk" / "readme.txt").touch()
    before = {path: path.stat() for path in sorted((tmp_path / "utk").rglob("*.*"))}
    target = tmp_path / "new" / "data"
    assert run("utkface", tmp_path / "utk", target) == 0
    assert found(target) == {
        names[0]: ("photo", "male", 25), names[1]: ("photo", "female", 59),
        names[2]: ("photo", "female", 60),
    }  # fmt: skip
    assert {row["race"] for row in rows(target)} == {"Black", "Indian", "White"}
    photos = sorted((target / "train" / "images").rglob("*.jpg"))
    assert {p.stat().st_ino for p in photos} == {s.st_ino for p, s in before.items()
                                                if p.suffix != ".txt"}  # fmt: skip
    assert all(path.stat().st_mtime_ns == status.st_mtime_ns for path, status in before.items())
    printed = capsys.readouterr().out.split("\n")
    assert printed[0] == f"{target / 'train'}: 3 people, 3 photos (SRC's are hard links)"
    assert "  age     <30 1, 30-59 1, >=60 1" in printed
    assert "  mask    not known 3" in printed
    assert f"  python -m gender.train --data {target}" in printed
    assert not any("mask.train" in line for line in printed)


def test_copies_are_files_of_their_own(bare: Sequence[Path], tmp_path: Path) -> None:
    put(bare[0], tmp_path / "utk" / "25_0_1_2017.jpg")
    assert run("utkface", tmp_path / "utk", tmp_path / "new", "--copy", "--bare") == 0
    (face,) = read_faces(tmp_path / "new")
    assert face.path.stat().st_nlink == 1 and face.view == "normal"
    assert face.path.read_bytes() == bare[0].read_bytes()


def test_where_links_can_not_be_photos_are_copied(
    bare: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", no_link)
    put(bare[0], tmp_path / "utk" / "25_0_1_2017.jpg")
    assert run("utkface", tmp_path / "utk", tmp_path / "new") == 0
    (face,) = read_faces(tmp_path / "new")
    assert face.path.read_bytes() == bare[0].read_bytes() and not face.path.is_symlink()


def test_what_can_not_be_used_is_listed_and_nothing_written(
    bare: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names first, before every photo is opened; then photos that can't be read."""
    put(bare[0], tmp_path / "utk" / "25_0_1_2017.jpg", tmp_path / "utk" / "61_1_2017.jpg.chip.jpg")
    (tmp_path / "utk" / "30_0_1_2017.jpg").write_bytes(b"no photo")
    line = ("utkface", tmp_path / "utk", tmp_path / "new")
    assert run(*line) == 2
    error = capsys.readouterr().err
    assert "1 files or rows can't be used and 0 are allowed (--allow-bad 1 goes on" in error
    assert "  61_1_2017.jpg.chip.jpg: not called age_gender_race_date.jpg" in error
    assert run(*line, "--allow-bad", 1) == 2
    assert "  30_0_1_2017.jpg: not a photo of a known format" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert run(*line, "--allow-bad", 2) == 0
    printed = capsys.readouterr()
    assert "left out: 2 files or rows that can't be used" in printed.out
    assert "left out: 61_1_2017.jpg.chip.jpg: not called" in printed.err
    assert list(found(tmp_path / "new")) == ["25_0_1_2017.jpg"]


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_an_interrupted_conversion_leaves_nothing(
    bare: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    for i, photo in enumerate(bare[:3]):
        put(photo, tmp_path / "utk" / f"25_0_1_{i}.jpg")
    if there:
        (tmp_path / "new").mkdir()

    def full(source: Path, file: Path, *, copy: bool) -> bool:
        if source.name == "25_0_1_2.jpg":
            raise OSError(28, "No space left on device")
        return link_or_copy(source, file, copy=copy)

    link_or_copy = convert.link_or_copy
    monkeypatch.setattr(convert, "link_or_copy", full)
    assert run("utkface", tmp_path / "utk", tmp_path / "new", "--no-look-alikes") == 2
    assert (tmp_path / "new").exists() == there
    assert not there or list((tmp_path / "new").iterdir()) == []


def test_a_target_that_is_in_use_is_refused_at_once(
    bare: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(bare[0], tmp_path / "new" / "mine.jpg")
    assert run("utkface", tmp_path / "none", tmp_path / "new") == 2
    assert f"{tmp_path / 'new'} exists already: give a new folder" in capsys.readouterr().err


def test_photos_that_look_the_same_are_of_one_person(
    bare: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them saved smaller; of other labels, it has a row of its own on the same side."""
    names = ("25_0_1_1.jpg", "26_0_1_2.jpg", "25_0_1_3.jpg", "40_0_1_4.jpg")
    utk = tmp_path / "utk"
    put(bare[0], *(utk / name for name in names[:2]))
    small = cv2.resize(cv2.imread(str(bare[0])), None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(utk / names[2]), small, (cv2.IMWRITE_JPEG_QUALITY, 80))
    put(bare[3], utk / names[3])
    assert run("utkface", utk, tmp_path / "new") == 0
    printed = capsys.readouterr().out
    assert "2 people, 4 photos" in printed
    assert "1 people have photos with different labels: a row each in train.csv" in printed
    labels = found(tmp_path / "new")
    assert {labels[name][0] for name in (names[0], names[2])} == {"photo", "photo2"}
    assert [labels[name][2] for name in names] == [25, 26, 25, 40]
    people = {face.person for face in read_faces(tmp_path / "new")}
    assert len(people) == 3 and len({person.human for person in people}) == 2
    folds = assign_folds(people, 2)
    assert len({(p.human, folds[p.key]) for p in people}) == 2
    assert run("utkface", utk, tmp_path / "apart", "--no-look-alikes") == 0
    assert len({face.person.human for face in read_faces(tmp_path / "apart")}) == 4


def test_fairfaces_ranges_become_groups(
    bare: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fair = tmp_path / "fair"
    ranges = {"train": ("0-2", "20-29", "more than 70", "25-34"), "val": ("50-59", "60-69")}
    photos = iter(bare)
    for part, ages in ranges.items():
        lines = ["file,age,gender,race,service_test"]
        for i, age in enumerate(ages):
            put(next(photos), fair / part / f"{part}{i}.jpg")
            lines.append(f"{part}/{part}{i}.jpg,{age},{('Male', 'Female')[i % 2]},East Asian,True")
        table(fair, *lines).rename(fair / f"fairface_label_{part}.csv")
    assert run("fairface", fair, tmp_path / "new") == 0
    printed = capsys.readouterr().out
    assert "left out: the age of 1 photos: 25-34 is not within <30, 30-59, >=60" in printed
    assert "  age     <30 2, 30-59 1, >=60 2, not known 1" in printed
    assert {row["age"] for row in rows(tmp_path / "new")} == {*AGE_GROUPS, ""}
    assert found(tmp_path / "new")["train3.jpg"] == ("photo", "female", None)
    assert found(tmp_path / "new")["val1.jpg"] == ("photo", "female", 60)
    one = fair / "fairface_label_val.csv"
    assert run("fairface", one, tmp_path / "val", "--min-age", 60) == 0
    assert list(found(tmp_path / "val")) == ["val1.jpg"]
    assert "1 photos of people who may be under 60" in capsys.readouterr().out
    assert run("fairface", bare[0].parent, tmp_path / "no") == 2
    assert "no table; expected fairface_label_train.csv" in capsys.readouterr().err


def test_any_table_is_read_by_its_own_names(bare: Sequence[Path], tmp_path: Path) -> None:
    for i, photo in enumerate(bare[:5]):
        put(photo, tmp_path / "photos" / f"{i}.jpg")
    faces = table(
        tmp_path / "tables", "file;years;sex;cover;who", "0.jpg;20;1;with mask;x",
        "1.jpg;20;1;WithMask;x", "2.jpg;31;1;none on;x", "3.jpg;>=60;-1;;y", "4.jpg;;;wrong;",
    )  # fmt: skip
    assert run(
        "csv", faces, tmp_path / "new", "--photos", tmp_path / "photos",
        "--map", "path=file,age=years,gender=sex,mask=cover,person=who",
        "--words=1=male,-1=female,none on=normal",
    ) == 0  # fmt: skip
    assert found(tmp_path / "new") == {
        "0.jpg": ("mask1", "male", 20), "1.jpg": ("mask2", "male", 20),
        "2.jpg": ("normal", "male", 31), "3.jpg": ("photo", "female", 60),
        "4.jpg": ("incorrect_mask", "", None),
    }  # fmt: skip
    humans = [row["person"] for row in rows(tmp_path / "new")]
    assert sorted(humans) == ["", "", "x", "x"]


def test_rows_that_can_not_be_used_are_listed(
    bare: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(bare[0], tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("no photo")
    faces = table(
        tmp_path, "path,age,gender", "a.jpg,20,male", "a.jpg,20,male", "b.jpg,20,male", ",20,male",
        "a.txt,20,male", "a.jpg,200,male", "a.jpg,20,1", "a.jpg,30-20,male",
    )  # fmt: skip
    assert run("csv", faces, tmp_path / "new") == 2
    lines = capsys.readouterr().err.strip().split("\n")
    years = "expected years from 0 to 120, a range such as 20-29, a group (<30, 30-59, >=60), or nothing"
    assert lines[1:] == [
        "  faces.csv row 3: the photo a.jpg stands in the table twice",
        f"  faces.csv row 4: b.jpg: no such photo in {tmp_path}",
        "  faces.csv row 5: no path",
        "  faces.csv row 6: a.txt: not a photo that can be read here",
        f"  faces.csv row 7: age '200', {years} (--words 200=20-29 tells what it means)",
        "  faces.csv row 8: gender '1', expected male or female, or nothing (--words 1=male tells "
        "what it means)",
        f"  faces.csv row 9: age '30-20', {years} (--words 30-20=20-29 tells what it means)",
    ]


@pytest.mark.parametrize(
    ("words", "ages"),
    [
        ("20대=20-29,60대 이상=60+", ("20대", "60대 이상")),
        ("young=<30,old=60+", ("young", "old")),
        ("Young=<=29,OLD=>=60,1=male", ("young", "Old")),
        ('"a, b=20s",zz=more than 60', ("a, b", "ZZ")),
    ],
)
def test_words_act_on_ages(
    bare: Sequence[Path], tmp_path: Path, words: str, ages: tuple[str, str]
) -> None:
    rows = [f'{photo},"{age}"' for photo, age in zip(bare, ages, strict=False)]
    assert run("csv", table(tmp_path, "path,age", *rows), tmp_path / "new", "--words", words) == 0
    assert [person.age for person in read_faces(tmp_path / "new")] == [0, 60]


@pytest.mark.parametrize("words", ["a", "a=", "=male", "a=twenty", "a=male,a=female", "a=5,A=6"])
def test_words_without_a_meaning_or_with_two_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match="expected words|none of|two meanings"):
        sources.parse_words(words)


def test_adience_is_read_as_downloaded(
    bare: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["user_id\toriginal_image\tface_id\tage\tgender\tx"]
    users = (
        *(("7@N03", "(25, 32)", "f"), ("7@N03", "35", "m"), ("9@N04", "None", "u")),
        *(("9@N04", "(60, 100)", ""), ("8@N04", "(8, 12)", "f")),
    )
    for i, (user, age, gender) in enumerate(users):
        lines.append(f"{user}\t{i}_o.jpg\t{i + 10}\t{age}\t{gender}\t0")
        name = f"coarse_tilt_aligned_face.{i + 10}.{i}_o.jpg"
        put(bare[i], tmp_path / "adience" / "faces" / user / name)
    for name in ("fold_0_data.txt", "fold_frontal_0_data.txt"):
        (tmp_path / "adience" / name).write_text("\n".join(lines))
    assert run("adience", tmp_path / "adience", tmp_path / "new") == 0
    assert "the age of 1 photos: 25-32 is not within" in capsys.readouterr().out
    faces = read_faces(tmp_path / "new")
    people = {(face.person.human, face.gender, face.age) for face in faces}
    assert people == {
        *(("7_N03", "female", None), ("7_N03", "male", 35), ("9_N04", "", None)),
        *(("9_N04", "", 60), ("8_N04", "female", 0)),
    }
    assert run("adience", tmp_path / "new", tmp_path / "other") == 2
    assert "expected fold_0_data.txt" in capsys.readouterr().err


def test_one_face_pasted_two_masks_on_is_one_person(bare: Sequence[Path], tmp_path: Path) -> None:
    for i, photo in enumerate(bare[:4]):
        put(photo, tmp_path / "src" / "CMFD" / "00000" / f"{i:05}_Mask.jpg")
    for i, photo in enumerate(bare[4:8]):
        put(photo, tmp_path / "src" / "IMFD" / "00000" / f"{i:05}_Mask_Mouth_Chin.jpg")
    put(bare[8], tmp_path / "src" / "without_mask" / "00002.png")
    assert run("folders", tmp_path / "src", tmp_path / "new") == 0
    people = {(face.person.key, face.mask) for face in read_faces(tmp_path / "new")}
    pasted = {(f"{i:05}", mask) for i in range(4) for mask in ("mask", "incorrect_mask")}
    assert people == {*pasted, ("00002", "normal")}


def test_classes_lie_below_the_folders_of_a_split(
    bare: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        f"Face Mask/{part}/{name}" for part in ("Train", "Test") for name in ("WithMask", "x")
    ]
    for i, folder in enumerate(folders):
        put(bare[i], tmp_path / "src" / folder.replace("/x", "/WithoutMask") / "1.png")
    assert run("folders", tmp_path / "src", tmp_path / "new") == 0
    masks = sorted(face.mask for face in read_faces(tmp_path / "new"))
    assert masks == ["mask", "mask", "normal", "normal"]
    assert "nothing tells who is on the photos" in capsys.readouterr().out
    boxes = tmp_path / "boxes"
    put(bare[0], boxes / "images" / "0.png")
    (boxes / "annotations").mkdir()
    (boxes / "annotations" / "0.xml").write_text("<annotation/>")
    assert run("folders", boxes, tmp_path / "none") == 2
    assert "cut the faces out first" in capsys.readouterr().err


def test_long_korean_names_fit_a_disk_and_stay_apart(bare: Sequence[Path], tmp_path: Path) -> None:
    rows = ["path,gender,person"]
    for i, photo in enumerate(bare[:3]):
        put(photo, tmp_path / "src" / ("가나다라마바사아자차" * 7) / f"{i}.jpg")
        rows.append(f"{'가나다라마바사아자차' * 7}/{i}.jpg,male,{i}{'한국인얼굴' * 50}")
    assert run("csv", table(tmp_path / "src", *rows), tmp_path / "new") == 0
    keys = {face.person.key for face in read_faces(tmp_path / "new")}
    assert len(keys) == 3
    assert all(len(unicodedata.normalize("NFD", key).encode()) < 255 for key in keys)


@pytest.mark.parametrize(
    ("header", "flags", "words"),
    [
        ("file,age", (), "no column path; found file, age"),
        ("path,years", (), "no column mask, gender, age; found path, years (--map tells which"),
        ("path,age", ("--map", "gender=sex"), "no column sex; found path, age"),
    ],
)
def test_a_table_without_the_columns_is_refused(
    tmp_path: Path, header: str, flags: tuple[str, ...], words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run("csv", table(tmp_path, header, "a.jpg,20"), tmp_path / "new", *flags) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (("wear", "incorrect", "not_wear"), [("mask1", "", None), ("incorrect_mask", "", None),
                                             ("normal", "", None)]),
        (("Male", "women"), [("photo", "male", None), ("photo", "female", None)]),
        (("under_30", "30-59", "060"), [("photo", "", 0), ("photo", "", 30), ("photo", "", 60)]),
    ],
)  # fmt: skip
def test_folders_are_the_classes_of_a_task(
    bare: Sequence[Path], tmp_path: Path, folders: Sequence[str], labels: list[tuple]
) -> None:
    for i, (photo, name) in enumerate(zip(bare, folders, strict=False)):
        put(photo, tmp_path / "src" / name / "deep" / f"{i}.png")
    assert run("folders", tmp_path / "src", tmp_path / "new") == 0
    assert list(dict(sorted(found(tmp_path / "new").items())).values()) == labels


def test_masks_are_drawn_on_bare_faces(
    bare: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, photo in enumerate(bare[:2]):
        put(photo, tmp_path / "utk" / f"25_{i}_0_1.jpg")
    line = ("--draw-masks", "--cache-dir", tmp_path / "cache")
    assert run("utkface", tmp_path / "utk", tmp_path / "new", *line) == 0
    printed = capsys.readouterr().out
    assert "  mask    mask 10, incorrect_mask 4, normal 4" in printed
    assert f"  python -m mask.train --data {tmp_path / 'new'}" in printed
    views = {face.view for face in read_faces(tmp_path / "new")}
    assert views == {
        "normal",
        "normal2",
        "incorrect_mask",
        "incorrect_mask2",
        *(f"mask{n}" for n in range(1, 6)),
    }


@pytest.mark.parametrize("names", [("wear", "hats"), ("male", "wear"), ()])
def test_folders_of_no_task_are_refused(
    bare: Sequence[Path], tmp_path: Path, names: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put(bare[0], tmp_path / "src" / "0.jpg", *(tmp_path / "src" / n / "1.jpg" for n in names))
    assert run("folders", tmp_path / "src", tmp_path / "new") == 2
    error = capsys.readouterr().err
    assert "its folders are not the classes of one task" in error
    assert all(f"  {name}" in error for name in names)


def test_persons_are_told_by_a_part_of_the_path(
    bare: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("male/anna_1.jpg", "female/anna_2.jpg", "male/bob_1.jpg", "male/bob_2.jpg")
    for photo, name in zip(bare, names, strict=False):
        put(photo, tmp_path / "src" / name)
    line = ("folders", tmp_path / "src", tmp_path / "new")
    assert run(*line, "--person-from", "([a-z]+)_[0-9]") == 0
    people = {face.person for face in read_faces(tmp_path / "new")}
    assert {(p.key, p.human) for p in people} == {
        ("anna_male_", "anna"), ("anna_female_", "anna"), ("bob", "bob"),
    }  # fmt: skip
    shutil.rmtree(tmp_path / "new")
    assert run(*line, "--person-from", "anna") == 2
    assert "  male/bob_1.jpg: --person-from anna finds nobody" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(*line, "--person-from", "(")
    assert "not a regular expression" in capsys.readouterr().err


@given(st.lists(st.text(max_size=120), min_size=1, max_size=6))
def test_folders_of_persons_are_names_and_none_comes_twice(names: list[str]) -> None:
    taken: set[str] = set()
    free = [convert.free_name(name, taken) for name in names]
    assert len({name.lower() for name in free}) == len(free)
    for name in free:
        assert name not in ("", ".", "..") and Path(name).name == name
        assert not set(name) & set('<>:"\\|?*\n')
        name.encode()


def test_years_that_no_group_holds_are_counted() -> None:
    photo = sources.SourcePhoto(Path(), "a", Labels(), Years(25, 34))
    assert convert.straddling([photo, photo]) == [
        "left out: the age of 2 photos: 25-34 is not within <30, 30-59, >=60"
    ]


def test_a_converted_set_trains(data: Path, bare: Sequence[Path], tmp_path: Path) -> None:
    for i, photo in enumerate(bare):
        put(photo, tmp_path / "utk" / f"{(20, 40, 70)[i // 2 % 3]}_{i % 2}_0_{i}.jpg")
    assert run("utkface", tmp_path / "utk", tmp_path / "new", "--no-look-alikes") == 0
    status, printed = train_tiny(
        GenderRecipe, tmp_path / "new", tmp_path, "--epochs 1 --crop none"
    )  # fmt: skip
    assert status == 0 and "training: 8 people, 8 photos" in printed
    line = f"--epochs 1 --crop none --extra {tmp_path / 'new'}"
    status, printed = train_tiny(GenderRecipe, data, tmp_path, line)
    assert "8 people, 8 photos (4 people left out, who have the same photo" in printed


def test_other_columns_of_a_table_become_labels_of_people_and_of_photos(
    bare: Sequence[Path], tmp_path: Path
) -> None:
    put(bare[0], tmp_path / "src" / "a1.jpg", tmp_path / "src" / "a2.jpg")
    put(bare[1], tmp_path / "src" / "b.jpg")
    header, *cells = "path,gender,person,glasses,site", "a1.jpg,male,a,yes,north"
    cells += ["a2.jpg,male,a,no,north", "b.jpg,female,b,,south"]
    target = tmp_path / "new"
    assert run("csv", table(tmp_path / "src", header, *cells), target) == 0
    cells = sorted((face.column("site"), face.column("glasses")) for face in read_faces(target))
    assert cells == [("north", "no"), ("north", "yes"), ("south", "")]
    assert "site" in (target / "train" / "train.csv").read_text().splitlines()[0]
    assert "glasses" not in (target / "train" / "train.csv").read_text()
