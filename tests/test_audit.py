"""common/data/audit*.py: each kind of damage to a drawn data set is named, and nothing else is."""

import csv
import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.base.errors import UserError, printable
from common.data.layout import Face, Person, read_faces
from common.faces.crop import Detection
from common.tools.audit.command import Audit, audit, class_table, described, main
from common.tools.audit.photos import PhotoFacts, examine, same_pictures
from common.tools.audit.tables import EVAL, AuditedPhoto, Finding, take_stock
from common.tools.demo.dataset import person_at, photo_at
from tests.tiny import environment

HEADER = "id,gender,race,age,path"
SEVEN = ("incorrect_mask", *(f"mask{n}" for n in range(1, 6)), "normal")


def lines_of(findings: Sequence[Finding], level: str, title: str) -> list[str]:
    """The cases of the one finding of this level whose title begins so."""
    found = [f for f in findings if f.level == level and f.title.startswith(title)]
    assert len(found) == 1, [(f.level, f.title) for f in findings]
    return list(found[0].lines)


def titles(findings: Sequence[Finding]) -> set[str]:
    return {f"{finding.level}: {finding.title}" for finding in findings}


# Tables and names: no photo is opened, so empty files do.


def lay_out(data: Path, *rows: str, views: Sequence[str] = SEVEN) -> Path:
    """`data` with a training table of `rows` and empty photos for each of its people."""
    images = data / "train" / "images"
    images.mkdir(parents=True)
    (data / "train" / "train.csv").write_text("\n".join((HEADER, *rows, "")))
    for row in rows:
        folder = images / row.rpartition(",")[2]
        folder.mkdir(exist_ok=True)
        for view in views:
            (folder / f"{view}.jpg").touch()
    return data


def row(number: int, gender: str = "male", age: object = 20) -> str:
    return f"{number:06d},{gender},Drawn,{age},{number:06d}_{gender}_Drawn_{age}"


def everyone(times: int) -> list[str]:
    """`times` people of each gender and age group."""
    kinds = [(gender, age) for gender in ("male", "female") for age in (20, 40, 70)] * times
    return [row(number, *kind) for number, kind in enumerate(kinds, start=1)]


def key(line: str) -> str:
    return line.rpartition(",")[2]


def test_a_whole_data_set_has_no_findings(tmp_path: Path) -> None:
    found = take_stock(lay_out(tmp_path, *everyone(2)), folds=2)
    assert not found.findings
    assert len(found.people) == 12 and len(found.faces) == len(found.photos) == 84


def test_rows_that_cannot_be_used_are_listed_and_the_others_are_used(tmp_path: Path) -> None:
    odd = (
        row(21, "male", 150), row(22, "male", -1), row(23, "male", "1e1"), row(24, "male", "thirty"),
        row(25, "mail", 30), "26,male,Drawn,20,..",
    )  # fmt: skip
    data = lay_out(tmp_path, *everyone(2))
    table = data / "train" / "train.csv"
    table.write_text("\n".join((HEADER, *everyone(2), *odd, "")))
    found = take_stock(data, folds=2)
    lines = lines_of(found.findings, "error", "unusable values in train/train.csv")
    assert [line.partition(",")[0] for line in lines] == [
        "row 14: age '150'", "row 15: age '-1'", "row 16: age '1e1'", "row 17: age 'thirty'",
        "row 18: gender 'mail'", "row 19: path '..'",
    ]  # fmt: skip
    assert len(found.findings) == 1 and len(found.people) == 12


def test_rows_folders_and_names_that_do_not_fit(tmp_path: Path) -> None:
    rows = everyone(2)
    data = lay_out(tmp_path, *rows)
    images = data / "train" / "images"
    rows[0] = rows[0].replace("000001,", "1,", 1)
    rows[1] = rows[1].replace(",male,", ",female,", 1)
    rows[2] = rows[2].replace(",Drawn,70,", ",Painted,7,", 1)
    rows[3] = rows[3].replace("000004,", "99,", 1)
    rows[5] = rows[5].replace("000006,", "000005,", 1)
    rows += [row(30), rows[6].replace(",20,", ",21,", 1), row(31), row(32, "female"),
             "000032,female,Drawn,20,other"]  # fmt: skip
    for name in ("000031_male_Drawn_20", "000032_female_Drawn_20", "other", "strange", "30_male_Drawn_20"):  # fmt: skip
        shutil.copytree(images / key(rows[0]), images / name)
    for path in (images / "000031_male_Drawn_20").iterdir():
        path.rename(path.with_suffix(".txt"))
    (data / "train" / "train.csv").write_text("\n".join((HEADER, *rows, "")))
    found = take_stock(data, folds=2).findings
    assert lines_of(found, "warning", "ids whose leading zeros are lost") == [
        "id '1' of 000001_male_Drawn_20"
    ]
    assert lines_of(found, "warning", "folder names that contradict their row") == [
        "000002_male_Drawn_40: the row says female",
        "000003_male_Drawn_70: the row says Painted, age 7",
        "000004_female_Drawn_20: the row says id 99",
        "000006_female_Drawn_70: the row says id 000005",
    ]
    assert lines_of(found, "warning", "ids that several people of different labels share") == [
        "000005: 000005_female_Drawn_40, 000006_female_Drawn_70"
    ]
    assert lines_of(found, "warning", "ids that several people of equal labels share") == [
        "000032: 000032_female_Drawn_20, other"
    ]
    assert lines_of(found, "error", "people without a folder") == [
        "000030_male_Drawn_20 (there is 30_male_Drawn_20)"
    ]
    assert lines_of(found, "error", "people without a photo") == ["000031_male_Drawn_20"]
    assert lines_of(found, "warning", "folders without a row") == [
        "30_male_Drawn_20 (7 photos)", "strange (7 photos)",
    ]  # fmt: skip
    assert lines_of(found, "error", "unusable values") == [
        "row 15: path '000007_male_Drawn_20' appears twice"
    ]
    assert lines_of(found, "error", "rows of one path") == ["000007_male_Drawn_20: age 20 or 21"]
    others = lines_of(found, "note", "other files")
    assert len(others) == 7 and "train/images/000031_male_Drawn_20/mask1.txt" in others


def test_views_and_stray_files(tmp_path: Path) -> None:
    rows = everyone(2)
    data = lay_out(tmp_path, *rows)
    images = data / "train" / "images"
    a, b, c = (images / key(line) for line in rows[:3])
    (a / "mask2.jpg").unlink()
    for path in (a / "mask6.jpg", b / "mask1.PNG", c / "selfie.jpg", images / "loose.jpg",
                 images / "readme.txt", c / "deep" / "x.jpg", a / "Thumbs.db", a / "._mask1.jpg",
                 b / ".DS_Store"):  # fmt: skip
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = take_stock(data, folds=2).findings
    assert lines_of(found, "warning", "missing views") == [f"{a.name}: mask2"]
    assert lines_of(found, "warning", "extra views") == [f"{a.name}: mask6"]
    assert lines_of(found, "warning", "views that a person has twice") == [f"{b.name}: mask1"]
    assert lines_of(found, "warning", "photos whose name is no view") == [
        f"train/images/{c.name}/selfie.jpg"
    ]
    assert lines_of(found, "warning", "photos in no person's folder") == ["train/images/loose.jpg"]
    assert lines_of(found, "note", "other files") == [
        "train/images/readme.txt", f"train/images/{c.name}/deep",
    ]  # fmt: skip
    assert len(found) == 6


@pytest.mark.parametrize(
    ("rows", "folds", "expected"),
    [
        (everyone(2)[:5], 6, ["5 people can't be split into 6 folds (--folds)"]),
        (everyone(1), 2, [
            f"class {mask * 6 + kind} ({name} {label}) in fold {1 - kind % 2} of 0 to 1"
            for mask, name in enumerate(("mask", "incorrect_mask", "normal"))
            for kind, label in enumerate(("male <30", "male 30-59", "male >=60", "female <30",
                                          "female 30-59", "female >=60"))
        ]),
        (everyone(2)[:2] + everyone(2)[6:8], 2, [
            f"{mask * 6 + kind} ({name} {label})"
            for mask, name in enumerate(("mask", "incorrect_mask", "normal"))
            for kind, label in ((2, "male >=60"), (3, "female <30"), (4, "female 30-59"),
                                (5, "female >=60"))
        ]),
    ],
    ids=["fewer people than folds", "absent from a fold", "absent"],
)  # fmt: skip
def test_classes_and_folds(
    rows: list[str], folds: int, expected: list[str], tmp_path: Path
) -> None:
    findings = take_stock(lay_out(tmp_path, *rows), folds).findings
    assert expected in [list(finding.lines) for finding in findings]


def test_labels_that_are_not_known_are_counted(tmp_path: Path) -> None:
    rows = [*everyone(2), "x,,Drawn,20,x", "y,male,Drawn,,y"]
    data = lay_out(tmp_path, *rows)
    (data / "train" / "images" / "x" / "mask1.jpg").rename(data / "train/images/x/photo.jpg")
    found = take_stock(data, folds=2).findings
    assert lines_of(found, "note", "people of unknown gender") == ["x"]
    assert lines_of(found, "note", "people of unknown age") == ["y"]
    assert lines_of(found, "note", "photos of unknown mask") == ["x/photo.jpg"]
    assert not [finding for finding in found if finding.level == "error"]


def test_rows_of_one_human_may_share_an_id(tmp_path: Path) -> None:
    rows = [f"{line},{'someone' if place in (0, 1) else ''}" for place, line in enumerate(everyone(2))]  # fmt: skip
    data = lay_out(tmp_path, *everyone(2))
    text = "\n".join((f"{HEADER},person", *rows, "")).replace("000002,", "000001,", 1)
    (data / "train" / "train.csv").write_text(text)
    assert not [f for f in take_stock(data, 2).findings if "share" in f.title]


@pytest.mark.parametrize(
    ("change", "level", "title", "line"),
    [
        (lambda table: table.unlink(), "error", "table that", "No such file"),
        (lambda table: table.write_bytes(b""), "error", "table that", "not a CSV table"),
        (lambda table: table.write_bytes(b"id,name\n1,x\n"), "error", "table that", "no column path"),
        (lambda table: table.write_bytes(b"path,age\n\xff,1\n"), "error", "table that", "not UTF-8"),
        (lambda table: table.write_text(HEADER + "\n"), "error", "table that", "no rows"),
        (lambda table: table.write_text("\ufeff" + table.read_text()), "note", "train/train.csv is",
         "a byte order mark"),
        (lambda table: table.write_text(table.read_text().replace(",", ";")), "note",
         "train/train.csv is", "semicolons for commas"),
        (lambda table: table.write_bytes(table.read_bytes().replace(b"\n", b"\r\n")), "note",
         "train/train.csv is", "line ends of Windows"),
    ],
    ids=["gone", "empty", "no column", "latin-1", "no rows", "BOM", "semicolons", "CRLF"],
)  # fmt: skip
def test_a_table_of_another_kind(
    change: Callable[[Path], object], level: str, title: str, line: str, tmp_path: Path
) -> None:
    """A table that can't be used hides no photo."""
    data = lay_out(tmp_path, *everyone(2))
    change(data / "train" / "train.csv")
    found = take_stock(data, folds=2)
    (told,) = lines_of(found.findings, level, title)
    assert line in told and len(found.findings) == 1
    assert len(found.photos) == 84 and bool(found.faces) == (level == "note")


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    data = lay_out(tmp_path, *everyone(2))
    shutil.rmtree(data / "train" / "images")
    found = take_stock(data, folds=2)
    lines = [f"{data / 'train' / 'images'}: No such file or directory"]
    assert lines_of(found.findings, "error", "folder that can't be read") == lines
    assert len(lines_of(found.findings, "error", "people without a folder")) == 12


def test_a_folder_that_leads_into_itself_is_looked_into_once(tmp_path: Path) -> None:
    data = lay_out(tmp_path, *everyone(2))
    images = data / "train" / "images"
    (images / "loop").symlink_to(images)
    (images / "round.jpg").symlink_to("round.jpg")
    found = take_stock(data, folds=2)
    assert lines_of(found.findings, "warning", "folders without a row") == ["loop (1 photos)"]
    assert len(found.faces) == 84 and len(found.photos) == 86


def test_persons_with_different_views_are_no_warning(tmp_path: Path) -> None:
    rows = everyone(1)
    data = lay_out(tmp_path, *rows)
    for place, line in enumerate(rows):
        (data / "train" / "images" / key(line) / SEVEN[place]).with_suffix(".jpg").unlink()
    assert lines_of(take_stock(data, 2).findings, "note", "people have different views")


def lay_out_eval(data: Path, names: Sequence[str], photos: Sequence[str]) -> Path:
    (data / "eval" / "images").mkdir(parents=True)
    text = "".join(f"{name},0\n" for name in names)
    (data / "eval" / "info.csv").write_text(f"ImageID,ans\n{text}")
    for name in photos:
        (data / "eval" / "images" / name).touch()
    return data


def test_the_table_to_predict_against_its_photos(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg", "a.jpg", "gone.jpg", "other.jpg", ""]
    data = lay_out_eval(tmp_path, names, ["a.jpg", "b.jpg", "other.PNG", "extra.jpg", "._a.jpg"])
    found = take_stock(data, folds=2)
    assert lines_of(found.findings, "error", "ids of eval/info.csv without a photo") == [
        "gone.jpg", "other.jpg (there is other.PNG)", "(empty)",
    ]  # fmt: skip
    assert lines_of(found.findings, "error", "ids that stand twice") == ["a.jpg: 2 rows"]
    assert lines_of(found.findings, "warning", "photos that eval/info.csv doesn't list") == [
        "extra.jpg", "other.PNG",
    ]  # fmt: skip
    assert [photo.name for photo in found.photos] == ["a.jpg", "b.jpg", "extra.jpg", "other.PNG"]
    assert {photo.owner for photo in found.photos} == {EVAL} and len(found.findings) == 3


def test_parts_are_found_from_wherever_the_other_commands_find_them(tmp_path: Path) -> None:
    data = lay_out_eval(lay_out(tmp_path, *everyone(2)), ["a.jpg"], ["a.jpg"])
    for place, photos in ((".", 85), ("train", 84), ("train/images", 84), ("eval", 1)):
        found = take_stock(data / place, folds=2)
        assert (len(found.photos), found.findings) == (photos, []), place
    with pytest.raises(UserError, match="no training data here"):
        take_stock(tmp_path / "none", folds=2)
    (data / "eval" / "info.csv").write_text("ImageID,ans\n")
    assert lines_of(take_stock(data, 2).findings, "error", "table that can't be used")


def test_photos_of_which_none_can_be_read(tmp_path: Path) -> None:
    from common.tools.audit.page import page

    data = lay_out_eval(tmp_path, ["a.jpg"], ["a.jpg"])
    result = audit(data, folds=2, workers=0, cache_dir=tmp_path / "cache", detect=False)
    assert titles(result.findings) == {"error: photos that can't be read"} and result.status == 2
    assert "<h2>Figures" not in page(result) and "a.jpg: empty file" in page(result)


# Photos: a drawn data set, damaged.


def reworked(source: Path, target: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Save the photo `source`, changed, as `target`."""
    target.write_bytes(cv2.imencode(target.suffix, change(cv2.imread(str(source))))[1].tobytes())


def smaller(photo: np.ndarray) -> np.ndarray:
    return cv2.resize(photo, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def damaged(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Audit, list[Path], list[str]]:
    """The audit of a damaged copy, its people' folders, and the names of its photos to predict."""
    copy = tmp_path_factory.mktemp("damaged") / "<b>&amp;"
    shutil.copytree(data, copy)
    folders = sorted((copy / "train" / "images").iterdir())
    p = [{path.stem: path for path in folder.iterdir()} for folder in folders]
    tests = sorted((copy / "eval" / "images").iterdir())
    p[0]["mask1"].write_bytes(b"")
    p[0]["mask2"].write_bytes(p[0]["mask2"].read_bytes()[:5000])
    for name in ("mask3", "mask4", "mask5"):
        p[0][name].unlink()
    os.mkfifo(p[0]["mask3"])
    p[0]["mask4"].symlink_to("nowhere.jpg")
    p[0]["mask5"].write_text("<html><body>404</body></html>")
    reworked(p[1]["mask1"], p[1]["mask2"], lambda photo: smaller(photo))
    shutil.copy(p[2]["normal"], p[3]["normal"])
    reworked(p[4]["normal"], p[5]["normal"], smaller)
    shutil.copy(p[6]["mask1"], tests[0])
    reworked(p[6]["mask2"], tests[1], smaller)
    shutil.copy(p[7]["mask1"], p[7]["normal"])
    shutil.copy(p[7]["mask2"], p[7]["mask3"])
    reworked(p[8]["mask1"], p[8]["mask1"], lambda photo: photo // 8)
    reworked(p[8]["mask2"], p[8]["mask2"], lambda photo: 225 + photo // 9)
    reworked(p[8]["mask3"], p[8]["mask3"], lambda photo: cv2.GaussianBlur(photo, None, 12))
    tests[2].write_bytes(b"\xff\xd8\xff")
    stranger = copy / "train" / "images" / "stranger" / "normal.png"
    stranger.parent.mkdir()
    drawn = photo_at(person_at(5, 77), 5, 77, "normal")[:, :, ::-1]
    stranger.write_bytes(cv2.imencode(".png", drawn)[1].tobytes())
    result = audit(copy, folds=2, workers=0, cache_dir=copy / "cache", detect=False)
    return result, folders, [test.name for test in tests]


def test_photos_that_cannot_be_read_are_all_listed(damaged) -> None:
    result, folders, tests = damaged
    first = folders[0].name
    lines = lines_of(result.findings, "error", "photos that can't be read")
    for line, expected in zip(lines, (
        f"{first}/mask1.jpg: empty file", f"{first}/mask2.jpg: damaged",
        f"{first}/mask3.jpg: not a file", f"{first}/mask4.jpg: no such file",
        f"{first}/mask5.jpg: not a photo of a known format", f"{tests[2]}: ",
    ), strict=True):  # fmt: skip
        assert line.startswith(expected)


def test_copies_are_named_with_both_persons(damaged) -> None:
    result, folders, tests = damaged
    p = [folder.name for folder in folders]
    assert lines_of(result.findings, "warning", "the same file under two people") == [
        f"{p[2]}/normal.jpg = {p[3]}/normal.jpg (labels differ)"
    ]
    assert lines_of(result.findings, "warning", "nearly the same photo under two people") == [
        f"{p[4]}/normal.jpg = {p[5]}/normal.jpg (labels differ)"
    ]
    assert lines_of(result.findings, "warning", "the same file to train on and to predict") == [
        f"{p[6]}/mask1.jpg = {tests[0]}"
    ]
    assert lines_of(result.findings, "warning", "nearly the same photo to train on and") == [
        f"{p[6]}/mask2.jpg = {tests[1]}"
    ]
    assert lines_of(result.findings, "warning", "the same file as different masks") == [
        f"{p[7]}/mask1.jpg = {p[7]}/normal.jpg"
    ]
    assert lines_of(result.findings, "note", "the same file twice") == [
        f"{p[7]}/mask2.jpg = {p[7]}/mask3.jpg"
    ]
    assert f"{p[1]} (1 pairs)" in lines_of(result.findings, "note", "people of whom several")


def test_bad_exposure_and_blur_are_named(damaged) -> None:
    result, folders, _ = damaged
    for title, name in (("too dark", "mask1"), ("too bright", "mask2"), ("blurred", "mask3")):
        (line,) = lines_of(result.findings, "warning", title)
        assert line.startswith(f"{folders[8].name}/{name}.jpg (")


def test_nothing_else_is_found(damaged) -> None:
    result, *_ = damaged
    assert lines_of(result.findings, "warning", "folders without a row") == ["stranger (1 photos)"]
    assert len(result.findings) == 12
    assert result.counts == {"error": 1, "warning": 9, "note": 2} and result.status == 2
    assert [f.level for f in result.findings] == ["error"] + ["warning"] * 9 + ["note"] * 2
    assert result.verdict.startswith("1 error, 9 warnings, 2 notes: training or prediction stops")


def test_what_there_is_is_counted(damaged) -> None:
    result, *_ = damaged
    assert result.summary == ("84 photos of 12 people to train on, 42 photos to predict, 1 others")
    cells = [re.split("  +", line) for line in class_table(result.codes())][2:]
    assert cells == [
        ["mask", *["10"] * 6, "0-5"], ["incorrect_mask", *["2"] * 6, "6-11"],
        ["normal", *["2"] * 6, "12-17"],
    ]  # fmt: skip
    ages, sizes = result.details()
    years = [face.age for face in result.found.faces]
    assert ages.startswith(f"ages: {min(years)} to {max(years)}, median ")
    assert sizes == "width x height: 384 x 512: 118, 230 x 307: 3"


def test_the_page_shows_every_finding_and_needs_nothing_else(damaged) -> None:
    from common.tools.audit.page import page

    result, folders, _ = damaged
    text = page(result)
    assert text.count("<svg") == 5 and "&lt;b&gt;&amp;amp;" in text and "<b>&amp;" not in text
    for finding in result.findings:
        assert finding.title in text.replace("&#39;", "'"), finding.title
    assert text.count("data:image/jpeg;base64,") == sum(len(f.photos) for f in result.findings)
    links = re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert not links and "url(http" not in text and "@import" not in text


def test_the_real_command(damaged, tmp_path: Path) -> None:
    result, *_ = damaged
    command = [sys.executable, "-m", "common.tools.audit", str(result.found.data), "--folds", "2",
               "--no-faces", "--workers", "2", "--html", "a.html"]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.splitlines()[-2:] == [f"verdict: {result.verdict}", "page → a.html"]
    shown = [line for finding in result.findings for line in described(finding, everything=False, width=100)]  # fmt: skip
    assert set(shown) <= set(done.stdout.splitlines())
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")


def run(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, (captured.out + captured.err).splitlines()


def test_exit_statuses(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Clean, with warnings, and a command that can't be carried out."""
    flags = ["--folds", "2", "--workers", "0", "--cache-dir", tmp_path / "cache", "--no-faces"]
    few = tmp_path / "few"
    shutil.copytree(data / "eval", few / "eval")
    status, lines = run([few, *flags], capsys)
    assert (status, lines[-1]) == (0, "verdict: clean")
    with (few / "eval" / "info.csv").open() as stream:
        rows = list(csv.reader(stream))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows[:-2])
    (few / "eval" / "info.csv").write_text(text.getvalue())
    status, lines = run([few, *flags, "--all"], capsys)
    assert (status, lines[-1]) == (1, "verdict: 1 warning: for a person to decide")
    assert lines[-4:-2] == sorted(f"{' ' * 9}{name}" for name, _ in rows[-2:])
    odd = few / "eval" / "images" / os.fsdecode(b"a\n\xff,.jpg")
    shutil.copy(few / "eval" / "images" / rows[1][0], odd)
    status, lines = run([few, *flags, "--all", "--html", tmp_path / "page.html"], capsys)
    assert status == 1 and f"{' ' * 9}a\\n\\udcff,.jpg" in lines
    assert "a\\n\\udcff,.jpg" in (tmp_path / "page.html").read_text()
    for wrong in ([tmp_path / "none", *flags], [few, *flags, "--html", tmp_path / "no" / "a.html"]):
        status, lines = run(wrong, capsys)
        assert status == 2 and lines[0].startswith("error: ")


def test_examples_fit_the_line_and_may_hold_anything() -> None:
    finding = Finding("warning", "odd", tuple(f"{'x' * 20}{n}" for n in range(9)))
    head, examples = described(finding, everything=False, width=80)
    assert head == "warning  odd: 9"
    assert examples == f"{' ' * 9}{'x' * 20}0; {'x' * 20}1; and 7 more" and len(examples) <= 80
    assert len(list(described(finding, everything=True, width=80))) == 10
    (_, long) = described(Finding("note", "odd", ("y" * 200,)), everything=False, width=80)
    assert long.endswith("y" * 200)
    assert printable("a\nb\udcff") == "a\\nb\\udcff" and printable("é, b") == "é, b"


# Faces: what is said of detections, and one real one.

PERSON = Person("k", "male", 20)
BOX = (60.0, 60.0, 140.0, 160.0)
EYES = ((80.0, 90.0), (120.0, 90.0), (100.0, 110.0), (85.0, 140.0), (115.0, 140.0))


def looked(
    name: str, detection: Detection | None, number: int = 0
) -> tuple[AuditedPhoto, PhotoFacts]:
    """A photo of person `name`, with nothing odd but what the detector says."""
    person = Person(name, "male", 20)
    path = Path(f"{name}/mask{number}.jpg")
    rng = np.random.default_rng((number, *name.encode()))
    look = PhotoFacts(
        digest=str(path), shape=(200, 200), fingerprint=rng.integers(2**64, dtype=np.uint64),
        thumbnail=rng.integers(256, size=(32, 32)).astype(np.uint8), tones=(20, 200),
        sharpness=100.0, face=detection,
    )  # fmt: skip
    return AuditedPhoto(path, str(path), name, Face(path, path.stem, person)), look


@pytest.mark.parametrize(
    ("detection", "title"),
    [
        (Detection((200, 200), BOX, 0.9, EYES, 1), None),
        (None, None),
        (Detection((200, 200)), "note: no face detected: the centre is taken"),
        (Detection((200, 200), BOX, 0.9, EYES, 3), "note: several faces detected"),
        (Detection((200, 200), BOX, 0.9, EYES[::-1], 1), "warning: upside down"),
        (Detection((200, 200), (90, 90, 110, 115), 0.9, EYES, 1), "note: face smaller than 15%"),
        (Detection((200, 200), (-40, 60, 80, 160), 0.9, EYES, 1), "note: face cut by the edge"),
        (Detection((200, 200), (60, 100, 160, 260), 0.9, EYES, 1), "note: face cut by the edge"),
    ],
)
def test_what_the_detector_says_is_judged(detection: Detection | None, title: str | None) -> None:
    whole = Detection((200, 200), BOX, 0.9, EYES, 1)
    seen = [looked("k", whole if detection else None, 1), looked("k", detection, 2)]
    findings = examine(seen, [])
    assert len(findings) == (title is not None)
    for finding in findings:
        assert f"{finding.level}: {finding.title}".startswith(title)
        assert finding.lines[0].startswith("k/mask2.jpg (") and finding.photos == (
            Path("k/mask2.jpg"),
        )


@pytest.mark.parametrize(("view", "level"), [("photo", "note"), ("normal", "warning")])
def test_the_same_file_contradicts_itself_only_where_both_masks_are_known(
    view: str, level: str
) -> None:
    photo, look = looked("a", None)
    other = dataclasses.replace(photo, face=dataclasses.replace(photo.face, view=view))
    (finding,) = examine([(photo, look), (other, look)], [])
    assert finding.level == level and finding.title.startswith("the same file")


def test_a_person_without_any_face_is_a_warning() -> None:
    none = Detection((200, 200))
    found = [looked("a", none, n) for n in (1, 2)]
    found += [looked("b", none, 1), looked("b", Detection((200, 200), BOX, 0.9, EYES, 1), 2)]
    findings = examine(found, [])
    assert lines_of(findings, "warning", "people without a detected face") == ["a"]
    assert len(lines_of(findings, "note", "no face detected")) == 3


def test_equal_pictures_make_few_pairs_and_one_line() -> None:
    """A thousand copies of a picture under a thousand people: no million pairs."""
    _, first = looked("x", None)
    seen = []
    for number in range(1000):
        photo, look = looked(f"p{number}", None)
        look = dataclasses.replace(first, digest=look.digest)
        seen.append((photo, look))
    assert len(same_pictures(seen)) == 999
    (line,) = lines_of(examine(seen, []), "warning", "nearly the same photo under two people")
    assert line.count(" = ") == 999 and "differ" not in line


def test_faces_are_looked_for_and_remembered(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tmp_path / "few"
    (few / "images").mkdir(parents=True)
    names = ["1.jpg", "2.jpg", "3.jpg"]
    bare = (face.path for face in read_faces(data) if face.view == "normal")
    for name, photo in zip(names, bare, strict=False):
        shutil.copy(photo, few / "images" / name)
    noise = np.random.default_rng(0).integers(256, size=(200, 200, 3), dtype=np.uint8)
    (few / "images" / "noise.png").write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    names.append("noise.png")
    (few / "info.csv").write_text("ImageID\n" + "\n".join(names))
    flags = [few, "--workers", "0", "--cache-dir", tmp_path / "cache"]
    status, lines = run(flags, capsys)
    assert status == 0 and "faces found: one 3, several 0, none 1" in lines
    assert f"{' ' * 9}noise.png (no face)" in lines

    def refuse(*_: object) -> None:
        raise AssertionError("the detector was asked again")

    monkeypatch.setattr("common.faces.detector.detect", refuse)
    assert run(flags, capsys)[1] == lines
