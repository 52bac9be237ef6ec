"""common/data/layout.py: the competition's folders and tables with all their quirks."""

import csv
import os
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from common.base.errors import UserError
from common.base.names import leads_out, tidy
from common.data.labels import GENDER_WORDS, parse_word, parse_years
from common.data.layout import (
    age_band,
    eval_dir,
    read_eval,
    read_faces,
    read_mixed,
    read_people,
    train_dir,
)
from common.data.listing import find_photos, is_photo

HEADER = "id,gender,race,age,path"
SEVEN = tuple(f"{view}.jpg" for view in ("incorrect_mask", *(f"mask{n}" for n in range(1, 6)), "normal"))  # fmt: skip


def row(identity: str, gender: str = "male", age: object = 20) -> str:
    return f"{identity},{gender},Asian,{age},{identity}_{gender}_Asian_{age}"


def write_table(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join((*rows, "")), encoding="utf-8")
    return path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def lay_out(data: Path, *rows: str, photos: tuple[str, ...] = SEVEN) -> Path:
    """`data` with a training table of `rows` and empty `photos` for each of its people."""
    write_table(data / "train" / "train.csv", HEADER, *rows)
    for line in rows:
        touch(data / "train" / "images" / line.rpartition(",")[2], *photos)
    return data


def test_every_view_of_every_person_sorted(tmp_path: Path) -> None:
    faces = read_faces(lay_out(tmp_path, row("000002", "female", 60), row("000001")))
    assert [(f.path.parent.name, f.path.name) for f in faces] == [
        (folder, name) for folder in ("000001_male_Asian_20", "000002_female_Asian_60")
        for name in SEVEN
    ]  # fmt: skip
    assert {f.person.key for f in faces} == {f.path.parent.name for f in faces}
    assert [f.view for f in faces[:7]] == [name.removesuffix(".jpg") for name in SEVEN]
    assert {(f.gender, f.age, f.person.race) for f in faces} == {
        ("male", 20, "Asian"), ("female", 60, "Asian"),
    }  # fmt: skip
    assert all(face.path.is_file() for face in faces)


def test_people_are_keyed_by_path(tmp_path: Path) -> None:
    """003397 is two people in the competition's table, and 41 ids end in '-1'."""
    rows = (row("003397"), row("003397", "female", 19), row("000725-1", "female", 45))
    faces = read_faces(lay_out(tmp_path, *rows))
    assert len(faces) == 21 and len({face.person for face in faces}) == 3
    assert {f.person.columns["id"] for f in faces} == {"003397", "000725-1"}


def test_photos_are_identified_by_their_whole_stem(tmp_path: Path) -> None:
    photos = ("MASK1.JPG", "mask2.jpeg", "mask10.bmp", "normal.png", "incorrect_mask.Jpg",
              "._mask1.jpg", ".mask3.jpg", "mask.jpg", "xmask1.jpg", "mask1_copy.jpg",
              "not_incorrect_mask.jpg", "normal2.jpg", "photo.jpg", "PHOTO12.png", "photos.jpg",
              "incorrect_mask3.jpg", "mask4.txt", "mask5", "Thumbs.db")  # fmt: skip
    faces = read_faces(lay_out(tmp_path, row("000001"), photos=photos))
    assert {face.path.name: face.view for face in faces} == {
        "MASK1.JPG": "mask1", "mask2.jpeg": "mask2", "mask10.bmp": "mask10",
        "normal.png": "normal", "incorrect_mask.Jpg": "incorrect_mask", "normal2.jpg": "normal2",
        "photo.jpg": "photo", "PHOTO12.png": "photo12", "incorrect_mask3.jpg": "incorrect_mask3",
    }  # fmt: skip
    words = {face.view.rstrip("0123456789"): face.mask for face in faces}
    assert words == {w: w for w in ("mask", "normal", "incorrect_mask")} | {"photo": ""}


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
def test_dialects_of_spreadsheets(mark: str, separator: str, ending: str, tmp_path: Path) -> None:
    rows = (HEADER, "000001,Male,Asian,07,000001", "000725-1,female,,60,b-1")
    text = mark + "".join(f"{line}{ending}" for line in rows).replace(",", separator)
    table = tmp_path / "train.csv"
    table.write_bytes(text.encode())
    people = read_people(table)
    assert [(p.key, p.gender, p.age, p.race) for p in people] == [
        ("000001", "male", 7, "Asian"), ("b-1", "female", 60, ""),
    ]  # fmt: skip
    assert [p.columns["id"] for p in people] == ["000001", "000725-1"]


def test_every_unusable_value_is_listed_with_its_row(tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "train.csv",
        *("gender,age,path", "male,20,a", "mail,thirty,b", "female,150,b", "female,-1,.."),
        *("female,40-30,c/d", ",,", "male,,", "male,20.0,e"),
    )
    with pytest.raises(UserError) as error:
        read_people(table)
    age = "expected years from 0 to 120, a range such as 20-29, a group (<30, 30-59, >=60), or nothing"
    folder = "expected the name of a folder in images"
    assert str(error.value).split("\n") == [
        f"{table}: 9 unusable values",
        "  row 3: gender 'mail', expected male or female, or nothing",
        f"  row 3: age 'thirty', {age}",
        f"  row 4: age '150', {age}",
        f"  row 5: age '-1', {age}",
        f"  row 5: path '..', {folder}",
        f"  row 6: age '40-30', {age}",
        f"  row 6: path 'c/d', {folder}",
        f"  row 8: path '', {folder}",
        "  row 4: path 'b' appears twice",
    ]


def test_blank_lines_are_no_rows_but_count(tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    table.write_text("gender,age,path\n\nmale,20,a\n\n,,\nmale,x,b\n\n")
    with pytest.raises(UserError, match="1 unusable values\n  row 6: age 'x'"):
        read_people(table)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=6)
GENDER_CELLS = st.sampled_from(("male", "female", "Male", " FEMALE ", "여", "u")) | CELLS
AGE_CELLS = (
    st.integers(-5, 200).map(str)
    | st.sampled_from(("030", " 60 ", "1e1", "٣٠", "<30", "30-59", ">=60 ", "20s", "25-32", "48.0"))
    | CELLS
)
PATH_CELLS = st.sampled_from((".", "..", "a/b", "/a", "a,b", '"a"', "a;b", "a b", "가")) | CELLS


def unusable(gender: str, age: str, path: str) -> bool:
    """Return True for a row that is to be refused, by the same words as everywhere else."""
    try:
        parse_word(gender, GENDER_WORDS)
        parse_years(age)
    except ValueError:
        return True
    name = tidy(path).removeprefix("./").rstrip("/\\")
    return name in ("", ".", "..") or "/" in name or leads_out(name)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(st.tuples(GENDER_CELLS, AGE_CELLS, PATH_CELLS), min_size=1, max_size=4))
@example(cells=[("male", "", "")])
@example(cells=[("male", "0\x1f", "a")])
@example(cells=[("male", "1", "가"), ("male", "1", "\u1100\u1161")])
def test_a_table_is_read_as_it_stands_or_refused(
    cells: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    cells = [cell for cell in cells if any(map(tidy, cell)) and not cell[0].startswith("#")]
    table = tmp_path / "train.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerows([("gender", "age", "path"), *cells])
    paths = [tidy(path) for _, _, path in cells]
    wrong = {n for n, cell in enumerate(cells, start=2) if unusable(*cell)}
    wrong |= {n for n, path in enumerate(paths, start=2) if path in paths[: n - 2] and path}
    if wrong or not cells:
        with pytest.raises(UserError) as error:
            read_people(table)
        assert {int(n) for n in re.findall(r"^  row ([0-9]+): ", str(error.value), re.M)} == wrong
    else:
        people = {p.key: p for p in read_people(table)}
        assert len(people) == len(cells)
        for (gender, age, _), path in zip(cells, paths, strict=True):
            person = people[path]
            years = parse_years(age)
            assert person.gender == parse_word(gender, GENDER_WORDS)
            firsts = {"<30": 0, "30-59": 30, ">=60": 60, "": None}
            assert person.age == (firsts.get(years.cell, years.first) if years else None)


def test_columns_that_a_table_lacks_are_unknown(tmp_path: Path) -> None:
    table = write_table(tmp_path / "train.csv", "path", "a", "b")
    assert [(p.key, p.gender, p.age, p.human) for p in read_people(table)] == [
        ("a", "", None, "a"), ("b", "", None, "b"),
    ]  # fmt: skip
    table = write_table(tmp_path / "train.csv", "path,person,age", "a,7,20", "b,7,34", "c, ,5")
    assert [(p.key, p.age, p.human) for p in read_people(table)] == [
        ("a", 20, "7"), ("b", 34, "7"), ("c", 5, "c"),
    ]  # fmt: skip


def test_a_table_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.csv", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: {reason}"):
            read_people(path)


@pytest.mark.parametrize(
    ("years", "band"), [(0, 0), (29, 0), (30, 1), (59, 1), (60, 2), (61, 2), (120, 2)]
)
def test_age_bands_follow_the_official_rule(years: int, band: int) -> None:
    assert age_band(years) == band


def test_people_without_photos_are_listed(tmp_path: Path) -> None:
    data = lay_out(tmp_path, row("000001"))
    rows = (row("000001"), row("000002"), row("000003"))
    write_table(data / "train" / "train.csv", HEADER, *rows)
    touch(data / "train" / "images" / "000003_male_Asian_20", "readme.txt", "face.jpg")
    with pytest.raises(UserError) as error:
        read_faces(data)
    assert "2 people have no folder with photos" in str(error.value)
    listed = str(error.value).split("\n")[1:]
    assert listed == ["  000002_male_Asian_20", "  000003_male_Asian_20"]


@pytest.mark.parametrize("given_dir", [".", "train", "train/images"])
def test_training_data_is_found_from_its_root_or_from_its_images(
    given_dir: str, tmp_path: Path
) -> None:
    """SM_CHANNEL_TRAIN is train/images."""
    data = lay_out(tmp_path, row("000001"))
    assert train_dir(data / given_dir) == data / "train"
    assert len(read_faces(data / given_dir)) == 7


@pytest.mark.parametrize("given_dir", ["nothing", "train/imagse", "train/images/000001"])
def test_missing_training_data_is_told_with_the_way_to_some(given_dir: str, tmp_path: Path) -> None:
    data = lay_out(tmp_path, row("000001")) / given_dir
    with pytest.raises(UserError) as error:
        train_dir(data)
    assert str(error.value).startswith(f"{data}: no training data here; expected ")
    for part in (
        str(data / "train" / "train.csv"),
        str(data / "train" / "images"),
        f"python -m common.tools.demo {data} --people 200",
    ):
        assert part in str(error.value)


def test_eval_data_is_found_from_its_root_or_itself(tmp_path: Path) -> None:
    write_table(tmp_path / "eval" / "info.csv", "ImageID,ans")
    assert eval_dir(tmp_path) == eval_dir(tmp_path / "eval") == tmp_path / "eval"
    with pytest.raises(UserError) as error:
        eval_dir(tmp_path / "none")
    for part in (tmp_path / "none" / "eval" / "info.csv", "--input"):
        assert str(part) in str(error.value)


@pytest.mark.parametrize("images", ["images", "."], ids=["in images", "beside the table"])
def test_eval_photos_come_in_the_tables_order(images: str, tmp_path: Path) -> None:
    order = ["c.jpg", "0.jpg", "b.JPG"]
    write_table(tmp_path / "info.csv", "ImageID,ans", *(f"{name},0" for name in order))
    touch(tmp_path / images, *order, "extra.jpg")
    names, paths = read_eval(tmp_path)
    assert names == order and paths == [tmp_path / images / name for name in order]


def test_eval_ids_without_a_photo_are_listed(tmp_path: Path) -> None:
    table = write_table(tmp_path / "info.csv", "ImageID,ans", "b.jpg,0", "a.jpg,0", ",0", "c.jpg,0")
    touch(tmp_path / "images", "a.jpg")
    with pytest.raises(UserError) as error:
        read_eval(tmp_path)
    first, *lines = str(error.value).split("\n")
    assert first.startswith(f"{table}: 3 of 4 ids have no photo in {tmp_path / 'images'} and 0 are")
    assert lines == ["  b.jpg", "  ", "  c.jpg"]
    assert read_eval(tmp_path, 3)[0] == ["b.jpg", "a.jpg", "", "c.jpg"]


def test_photos_of_a_folder_are_found_at_any_depth_and_sorted(tmp_path: Path) -> None:
    photos = ["a.jpg", "b/c/2.PNG", "b/c/10.png", "z, z.webp", "é.jpeg"]
    touch(tmp_path, *photos, "._a.jpg", ".hidden/a.jpg", "notes.txt", "b/Thumbs.db")
    names, paths = find_photos(tmp_path)
    assert names == sorted(photos)
    assert paths == [tmp_path / name for name in names]


def test_photos_are_told_by_content_where_the_name_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = Image.new("RGB", (32, 32))
    photos = {"a.jfif": "JPEG", "b.JPE": "JPEG", "c.HEIC": "JPEG", "d.jpg.chip": "JPEG"}
    photos |= {"e": "PNG", "f.dat": "TIFF", "g.bin": "BMP", "h.bak": "GIF", "i.tmp": "WEBP"}
    for name, kind in photos.items():
        picture.save(tmp_path / name, kind)
    (tmp_path / "bm.txt").write_bytes(b"BM begins this text")
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    touch(tmp_path, "empty", "._a.jfif", "Thumbs.db")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "self").symlink_to("self")
    names, _ = find_photos(tmp_path)
    assert names == sorted(photos)
    assert capsys.readouterr().err == (
        "warning: 5 files are not photos that can be read here: bm.txt, clip.mp4, empty, pipe, self\n"
    )


def test_what_lies_beside_a_persons_views_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "train" / "train.csv", "path", "a")
    touch(table.parent / "images" / "a", "mask1.jpg", "selfie.jpg", "normal.txt", "more/normal.jpg")
    assert [face.view for face in read_faces(tmp_path)] == ["mask1"]
    odd, others = capsys.readouterr().err.splitlines()
    assert odd.endswith("1 photo left out, called otherwise than mask1, incorrect_mask, normal or "
                        "photo: a/selfie.jpg")  # fmt: skip
    assert others.endswith("2 files are not photos that can be read here: a/more, a/normal.txt")


def test_a_range_that_no_group_holds_is_unknown_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "t.csv", "path,age", 'a,"(25, 32)"', "b,20s", "c,None")
    assert [person.age for person in read_people(table)] == [None, 0, None]
    assert "the age of 1 people, such as '(25, 32)', is within none" in capsys.readouterr().err


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "photos/deep/b.jpg", "elsewhere/c.jpg")
    photos = tmp_path / "photos"
    for name, target in (
        ("loop", photos), ("deep/up", photos / "deep"), ("out", tmp_path / "elsewhere"),
        ("out2", tmp_path / "elsewhere"), ("gone.jpg", tmp_path / "gone"),
    ):  # fmt: skip
        (photos / name).symlink_to(target)
    names, _ = find_photos(photos)
    assert names == ["a.jpg", "deep/b.jpg", "gone.jpg", "out/c.jpg"]


def test_a_folder_without_photos_or_no_folder_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "._a.jpg")
    with pytest.raises(
        UserError, match=re.escape(f"{tmp_path}: no photos in it or below; 1 file is not")
    ):
        find_photos(tmp_path)
    with pytest.raises(UserError, match="none: No such file or directory"):
        find_photos(tmp_path / "none")


@given(
    stem=st.text(st.characters(exclude_characters="/"), min_size=1, max_size=8),
    extension=st.sampled_from(("jpg", "JPEG", "Tiff")),
)
def test_only_a_leading_dot_hides_a_photo(stem: str, extension: str) -> None:
    assert is_photo(Path(f"{stem}.{extension}")) == (not stem.startswith("."))
    assert not is_photo(Path(f"{stem}.{extension}.txt"))


def labelled_photos(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    """Two people of seven photos each, and `lines` as photos.csv."""
    data = lay_out(tmp_path, row("000001"), row("000002", "female"))
    rows = (row("000001") + ",yes", row("000002", "female") + ",")
    write_table(data / "train" / "train.csv", header + ",hat", *rows)
    if lines:
        write_table(data / "train" / "photos.csv", *lines)
    return data


def test_a_column_is_of_the_photo_or_else_of_its_person(tmp_path: Path) -> None:
    one, other = (f"00000{n}_{g}_Asian_20" for n, g in ((1, "male"), (2, "female")))
    data = labelled_photos(
        tmp_path, "path,glasses,hat", f"{one}/mask1.jpg,yes,no", f"{other}/normal.jpg,,yes"
    )
    cells = {f"{f.person.key}/{f.path.name}": f for f in read_faces(data)}
    assert len(cells) == 14
    for name, column, cell in (
        (f"{one}/mask1.jpg", "glasses", "yes"),
        (f"{one}/mask1.jpg", "hat", "no"),
        (f"{one}/mask2.jpg", "glasses", ""),  # no row
        (f"{one}/mask2.jpg", "hat", "yes"),  # its person's
        (f"{other}/normal.jpg", "glasses", ""),  # an empty cell
        (f"{other}/normal.jpg", "hat", "yes"),
        (f"{other}/mask1.jpg", "hat", ""),
    ):
        assert cells[name].column(column) == cell, (name, column)


@pytest.mark.parametrize("table", [(), ("path,glasses",)], ids=["no photos.csv", "photos.csv"])
def test_a_column_that_no_table_has_is_named_with_the_nearest(
    table: tuple[str, ...], tmp_path: Path
) -> None:
    face = read_faces(labelled_photos(tmp_path, *table))[0]
    with pytest.raises(UserError) as error:
        face.column("ht")
    columns = "id, gender, race, age, path, hat" + (", glasses" if table else "")
    assert str(error.value) == (
        f"{tmp_path / 'train' / 'train.csv'}: no column ht, nor in photos.csv; the columns are "
        f"{columns}; did you mean hat?"
    )


def test_rows_of_photos_that_are_not_there_or_repeated_are_listed(tmp_path: Path) -> None:
    name = "000001_male_Asian_20/mask1.jpg"
    data = labelled_photos(tmp_path, "path,hat", f"{name},", "none/x.jpg,a", f"{name},b")
    with pytest.raises(UserError) as error:
        read_faces(data)
    table = data / "train" / "photos.csv"
    assert str(error.value).split("\n") == [
        f"{table}: 2 unusable values",
        "  row 3: path 'none/x.jpg', expected PERSON/FILE of a photo in images",
        f"  row 4: path {name!r} appears twice",
    ]
    write_table(table, "path,age", f"{name},3")
    with pytest.raises(UserError, match=re.escape(f"{table}: column age: belongs in train.csv")):
        read_faces(data)


def test_mixed_people_lack_labels_that_only_other_tables_have(tmp_path: Path) -> None:
    data = labelled_photos(tmp_path, "path,glasses")
    mixed = data / "train" / "mixed"
    write_table(mixed / "mixed.csv", "gender,age,path,parent_a,parent_b", "male,20,x,a,b")
    touch(mixed / "images" / "x", "mask1.jpg")
    (face,) = read_mixed(data)
    assert (face.person.key, face.person.parents) == ("mixed/x", ("a", "b"))
    assert [face.column(name) for name in ("gender", "hat", "glasses")] == ["male", "", ""]


def test_a_folder_of_photos_is_offered_to_be_converted(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(UserError) as error:
        train_dir(tmp_path)
    assert "python -m common.tools.convert " in str(error.value)
    assert "demo" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (("a/1.jpg", "a/2.png", "b/3.webp"), "folders {own} {own}-train"),
        (("25_0_1_2017.jpg", "in/61_1_0_x.jpg", "other.jpg"), "utkface {own} {own}-train"),
        (("1.jpg", "2.jpg", "3.jpg", "labels.csv"), "csv {own}/labels.csv {own}-train"),
        (("f/1.jpg", "2.jpg", "3.jpg", "fairface_label_val.csv"), "fairface {own} {own}-train"),
        (("faces/1.jpg", "2.jpg", "3.jpg", "fold_0_data.txt"), "adience {own} {own}-train"),
        (("1.jpg", "2.jpg", "3.jpg"), "csv TABLE.csv {own}-train --photos {own}"),
    ],
)
def test_photos_without_the_layout_are_counted_and_the_fitting_conversion_is_named(
    files, line, tmp_path
):
    own = tmp_path / "my photos"
    for name in files:
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).touch()
    with pytest.raises(UserError) as error:
        train_dir(own)
    text = str(error.value)
    assert f"3 photos below {own}" in text and "demo" not in text
    words = shlex.split(text.splitlines()[-1])
    expected = f"python -m common.tools.convert {line}".split()
    assert words == [word.format(own=own) for word in expected]
    with pytest.raises(UserError, match="--input .* predicts the 3 photos below it"):
        eval_dir(own)
