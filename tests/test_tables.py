"""common/base/tables.py and names.py: the same table in any shape, the same name in any form."""

import contextlib
import csv
import io
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.base.errors import UserError
from common.base.names import (
    FileFinder,
    leads_out,
    name_end,
    name_key,
    path_key,
    tidy,
    whole_number,
)
from common.base.tables import read_table
from common.data.label_fixes import read_fixes
from common.data.layout import read_eval, read_faces, usable_people
from common.inference.submissions import read_codes
from common.tools.sources import read_csv

ROWS = [["id", "gender", "path"], ["003397", "남", "가\r\n나, b"], ["000725-1", "", "c;\td|"]]
ENCODINGS = ("utf-8", "utf-8-sig", "cp949", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
WITHIN_TMP = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def text_of(rows: list[list[str]], delimiter: str = ",", end: str = "\n", **quoting: int) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end, **quoting).writerows(rows)
    return text.getvalue()


def read(folder: Path, data: bytes | str, *columns: str) -> list[dict[str, str]]:
    file = folder / "table.csv"
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_table(file, columns or ("path",), optional=("id", "gender")).to_dict("records")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_is_the_same_in_any_shape(
    tmp_path: Path, encoding: str, delimiter: str, end: str
) -> None:
    expected = [dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]]
    text = text_of(ROWS, delimiter, end)
    assert read(tmp_path, text.encode(encoding)) == expected
    padded = [[*row, "", ""] for row in ROWS] + [[""] * 5, [" ", "", "", "", ""]]
    text = f"sep={delimiter}{end}{end}" + text_of(padded, delimiter, end, quoting=csv.QUOTE_ALL)
    assert read(tmp_path, text.encode(encoding)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("id, gender, path\n1, male, a\n", "ID,Gender,PATH\n1,male,a\n", "# x\n#\nid,gender,path\n1,male,a"),
        *("# id,gender,path\n1,male,a\n", "id,gender,path\n# remark\n1,male,a\n#\n", "\ufeffid\t gender\tpath\n1\tmale\ta"),
        *('sep=;\nid;gender;path\n1;male;a', '"sep=;"\nid;gender;path\n="1";male;a', "id,gender,path,,\n1,male,a,,\n,,,,\n"),
        *("id\u00a0,ｇender,path\u200b\n1\u3000,\u00a0male,\ufeffa\n", 'id, "gender", "path"\n1, "male", "a"\n'),
    ],
)  # fmt: skip
def test_odd_tables_are_read(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == [{"id": "1", "gender": "male", "path": "a"}]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("path,age,age\na,23,61\n", "two columns are named age"),
        ("path,Path\na,b\n", "two columns are named path"),
        ("path,age, Age ,AGE\na,1,2,3\n", "3 columns are named"),
        ("path,나이,나이\n".encode("cp949"), "two columns are named 나이"),
        (f"path,나이,{unicodedata.normalize('NFD', '나이')}\n", "two columns are named 나이"),
        ("a,b\n1,2\n", "no column path; found a, b"),
        ("pth,b\n1,2\n", "did you mean pth"),
        ("path,b\n1,2,3\n4,5\n", "row 2 has more values than the header has names: 3 and 2"),
        ('path,b\n1,2\n"3,4\n5,6\n', "row 3: a quote is never closed"),
        ("", "not a CSV table"),
        ("# only\n\n", "not a CSV table"),
        (b"path\n\xff\xfe\xfd\n", "nor UTF-16 or cp949; save it as CSV UTF-8"),
        (("path\n" + "가나다라마" * 9).encode() + b"\xb0", "not UTF-8 text"),
        (b"path,b\na\0,2\n", "zero bytes"),
        (f"path\n{'a' * 200_000}\n", "row 2: field larger than"),
    ],
)
def test_what_is_no_table_is_refused_with_its_row(
    tmp_path: Path, data: bytes | str, words: str
) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, data)
    assert words in str(error.value) and str(tmp_path / "table.csv") in str(error.value)


def test_rows_are_numbered_as_a_spreadsheet_numbers_them(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("# by X\npath\na\n\n,\nb\n")
    assert (read_table(file, ("path",)).index + 2).tolist() == [3, 6]


def test_ids_are_kept_byte_for_byte_where_they_are_answered(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "사진") + " .jpg"
    (tmp_path / "info.csv").write_text(f"ImageID,ans\n{name},0\n./b.jpg,0\n")
    for photo in (unicodedata.normalize("NFC", name), "b.jpg"):
        (tmp_path / photo).touch()
    names, paths = read_eval(tmp_path)
    assert names == [name, "./b.jpg"] and all(path.is_file() for path in paths)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "C:\\a.jpg", "x\\..\\..\\a.jpg"])
def test_ids_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "info.csv").write_text(f"ImageID,ans\n{name},0\n")
    with pytest.raises(UserError, match=r"info.csv: 1 id outside of"):
        read_eval(tmp_path, 10)


def test_submissions_compare_names_and_read_codes_as_spreadsheets_write_them(
    tmp_path: Path,
) -> None:
    table = tmp_path / "s.csv"
    table.write_bytes('ImageID\tAns\na.jpg\t3.0\nb.jpg\t="4"\nc.jpg\t１７\n'.encode("utf-16"))
    assert read_codes(table, 18) == {"a.jpg": 3, "b.jpg": 4, "c.jpg": 17}


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@WITHIN_TMP
@given(st.lists(st.lists(CELL, min_size=3, max_size=3), max_size=4), st.sampled_from(",;\t|"))
@example([["#", "", ""]], ",")
def test_whatever_cells_hold_is_read_back_tidy(
    tmp_path: Path, body: list[list[str]], delimiter: str
) -> None:
    rows = [["path", "x", "ImageID"], *body]
    file = tmp_path / "t.csv"
    file.write_bytes(text_of(rows, delimiter, quoting=csv.QUOTE_ALL).encode())
    kept = [row for row in body if any(map(tidy, row))]
    kept = [r for r in kept if not (r[0].lstrip().startswith("#") and not any(map(tidy, r[1:])))]
    found = read_table(file, ("path", "x", "ImageID"), exact=("ImageID",))
    assert found.to_numpy().tolist() == [[tidy(r[0]), tidy(r[1]), r[2]] for r in kept]


PIECES = st.sampled_from(
    [*b'",;\t|\r\n\0#=\\/', 0xFF, 0xFE, 0xB0, 0xA1, 0xED, 0xA0]
).map(lambda byte: bytes([byte])) | st.binary(max_size=3)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(
        ["id,gender,age,path\n1,male,20,a\n", "ImageID;ans\na;3\n", "id\twhat\n1\tswap\n"]
    ),
    st.sampled_from(ENCODINGS),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 3), PIECES), max_size=5),
)
def test_a_damaged_table_is_read_or_refused(
    tmp_path: Path, text: str, encoding: str, cuts: list[tuple[int, int, bytes]]
) -> None:
    data = text.encode(encoding)
    for place, length, piece in cuts:
        data = data[:place] + piece + data[place + length :]
    file = tmp_path / "t.csv"
    file.write_bytes(data)
    for reader in (
        usable_people,
        lambda table: read_codes(table, 18, empty=True),
        lambda table: read_fixes(str(table)),
        lambda table: read_csv(table, table.parent),
    ):
        with contextlib.suppress(UserError):
            reader(file)


@given(st.text(max_size=12))
def test_tidy_is_stable_and_takes_any_unicode_form(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text) or text.strip().startswith("=")
    for form in ("NFC", "NFD"):
        assert tidy(unicodedata.normalize(form, text)) == tidy(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("48", 48), ("48.0", 48), (" 1,234 ", 1234), ('="48"', 48), ("４８", 48), ("48,0", 48),
     ("007", 7), ("48.5", None), ("1e3", None), ("-1", None), ("", None), ("9" * 40, None)],
)  # fmt: skip
def test_numbers_as_spreadsheets_write_them(text: str, number: int | None) -> None:
    assert whole_number(text) == number


def test_files_are_found_by_any_form_of_their_name(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "사진é") for form in ("NFC", "NFD"))
    for place in (decomposed, f"b/{composed}", "Shot 3.00\u202fPM", "c/one", "twice", "twice "):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    raw = os.fsdecode("가.jpg".encode("cp949"))
    finder = FileFinder(tmp_path)
    for name, place in (
        (composed, decomposed), (decomposed, decomposed), (f"b\\{decomposed}", f"b/{composed}"),
        (f"./b/{decomposed}", f"b/{composed}"), ("Shot 3.00 PM", "Shot 3.00\u202fPM"),
        ("c\\one", "c/one"), ("twice", "twice"), ("twice ", "twice "),
    ):  # fmt: skip
        assert finder.find(name) == tmp_path / place
    for name in ("", ".", "b/none", "no/thing", "a" * 300, "a\0b"):
        assert finder.find(name) in (None, tmp_path)
    assert name_key(raw) == "가.jpg" and path_key(f".\\b\\{decomposed}") == f"b/{composed}"


@given(st.text(st.characters(codec="utf-8"), max_size=80), st.integers(3, 60))
def test_shortened_names_end_the_same_and_fit_in_bytes(name: str, limit: int) -> None:
    short = name_end(name, limit)
    assert name.endswith(short)
    assert all(len(unicodedata.normalize(f, short).encode()) <= limit for f in ("NFC", "NFD"))


@pytest.mark.parametrize("name", ["a.jpg", "b/c.jpg", "a..b", "b\\c"])
def test_names_within_a_folder(name: str) -> None:
    assert not leads_out(name)


def test_a_macs_folders_are_the_tables_people(data: Path, tmp_path: Path) -> None:
    names = {f"{i}_{word}" for i, word in enumerate(("가람", "나래", "é"))}
    photo = next(iter(read_faces(data))).path
    for name in names:
        folder = tmp_path / "train" / "images" / unicodedata.normalize("NFD", name)
        folder.mkdir(parents=True)
        (folder / "mask1.jfif").write_bytes(photo.read_bytes())
        (folder / "normal").write_bytes(photo.read_bytes())
    (tmp_path / "train" / "train.csv").write_text("path\n" + "\n".join(sorted(names)))
    (tmp_path / "train" / "photos.csv").write_text("path,hat\n0_가람\\mask1.jfif,yes\n")
    faces = read_faces(tmp_path)
    assert {face.person.key for face in faces} == names
    assert [face.view for face in faces] == ["mask1", "normal"] * 3
    assert [face.column("hat") for face in faces if face.person.key == "0_가람"] == ["yes", ""]
