"""combine.py's codes, finished tables and scores."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from combine import CODES, NAMES, TASKS, decode, encode, main
from common.base.errors import UserError
from common.inference.submissions import print_score, read_codes, read_labels

TRIPLES = [(mask, gender, age) for mask in range(3) for gender in range(2) for age in range(3)]


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(("ImageID,ans", *rows, "")))
    return path


def test_codes_are_the_competitions() -> None:
    codes = [encode(triple) for triple in TRIPLES]
    assert codes == [mask * 6 + gender * 3 + age for mask, gender, age in TRIPLES]
    assert codes == list(range(18)) == list(range(len(NAMES)))
    assert [decode(code) for code in codes] == TRIPLES
    assert [(code // 6, code // 3 % 2, code % 3) for code in codes] == TRIPLES


def test_arrays_are_encoded_as_each_of_their_values() -> None:
    order = np.random.default_rng(0).permutation(18)
    codes = encode(np.array(TRIPLES)[order].T)
    assert codes.tolist() == order.tolist()
    assert np.stack(decode(codes), axis=1).tolist() == np.array(TRIPLES)[order].tolist()


def test_names_of_the_codes() -> None:
    assert [task.task for task in TASKS] == ["mask", "gender", "age"]
    assert (NAMES[0], NAMES[4], NAMES[17]) == (
        "wear male <30", "wear female 30-59", "not_wear female >=60",
    )  # fmt: skip
    for name, classes in zip(NAMES, TRIPLES, strict=True):
        parts = (task.classes[i] for task, i in zip(TASKS, classes, strict=True))
        assert name == " ".join(parts)


def test_a_class_of_every_task_is_needed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        encode([1, 1])


def test_a_bad_photo_has_no_code() -> None:
    answers = SimpleNamespace(
        classes=dict.fromkeys(CODES.classes, np.array([1, 1, 1])), bad={1: "not a photo"}
    )
    assert CODES.of(answers).tolist() == [10, -1, 10]


def test_help_describes_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: python combine.py [flags]\n")
    assert "into one of 18 codes" in printed


def test_codes_are_read_in_the_tables_order(tmp_path: Path) -> None:
    table = write(tmp_path / "codes.csv", "b.jpg,17", "007, 3 ", "a.jpg,0")
    assert list(read_codes(table, 18).items()) == [("b.jpg", 17), ("007", 3), ("a.jpg", 0)]


def test_rows_with_another_code_are_listed(tmp_path: Path) -> None:
    rows = ("a,0", "b,18", "c,-1", "d,", "e,1.0", "f,x", "g,17", "h,03")
    table = write(tmp_path / "codes.csv", *rows)
    with pytest.raises(UserError) as error:
        read_codes(table, 18)
    assert str(error.value).split("\n") == [
        f"{table}: 4 rows whose ans isn't 0 to 17", "  row 3: b: '18'", "  row 4: c: '-1'",
        "  row 5: d: ''", "  row 7: f: 'x'",
    ]  # fmt: skip


def test_ids_that_stand_twice_are_listed(tmp_path: Path) -> None:
    table = write(tmp_path / "codes.csv", "a,0", "b,1", "a,0", "b,2")
    expected = f"{table}: 2 rows repeat an id\n  row 4: a\n  row 5: b"
    with pytest.raises(UserError, match=re.escape(expected)):
        read_codes(table, 18)


def test_labels_come_in_the_order_asked_for(tmp_path: Path) -> None:
    table = write(tmp_path / "labels.csv", "a,5", "b,6", "c,7")
    labels = read_labels(table, ["c", "a", "c"], 18)
    assert labels.tolist() == [7, 5, 7]
    with pytest.raises(UserError) as error:
        read_labels(table, ["d", "a", "e"], 18)
    assert str(error.value) == f"{table}: no row for 2 photos\n  d\n  e"


def scores(output: str) -> dict[str, tuple[float, float]]:
    """Macro F1 and accuracy by name, from what print_score prints."""
    found = re.findall(r"^(\w+(?: codes)?) +macro F1 ([0-9.]+) +accuracy ([0-9.]+)", output, re.M)
    return {name: (float(f1), float(accuracy)) for name, f1, accuracy in found}


def test_perfect_predictions_score_one(capsys: pytest.CaptureFixture[str]) -> None:
    print_score(CODES, np.arange(18), np.arange(18))
    output = capsys.readouterr().out
    assert scores(output) == dict.fromkeys(("mask", "gender", "age", "18 codes"), (1.0, 1.0))
    assert "(18 photos)" in output and "note:" not in output


def test_a_score_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """Two of three right: F1 is 1 for code 0, 2/3 for 17 (one of its two missed), 0 for 16.

    The missed photo's mask and gender were right; the 15 absent classes and 16 count as 0.
    """
    print_score(CODES, np.array([0, 17, 17]), np.array([0, 17, 16]))
    output = capsys.readouterr().out
    expected = {
        "mask": (2 / 3, 1), "gender": (1, 1), "age": ((1 + 0 + 2 / 3) / 3, 2 / 3),
        "18 codes": ((1 + 2 / 3) / 18, 2 / 3),
    }  # fmt: skip
    assert scores(output) == {k: pytest.approx(v, abs=5e-5) for k, v in expected.items()}
    assert "note: 16 of 18 classes without a photo here, counted as F1 0" in output


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_scikit_learns(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 12 + seed, 60)
    predicted = np.where(rng.random(60) < 0.6, true, rng.integers(0, 18, 60))
    print_score(CODES, true, predicted)
    printed = scores(capsys.readouterr().out)
    sizes = {"mask": 3, "gender": 2, "age": 3, "18 codes": 18}
    answers = zip((*decode(true), true), (*decode(predicted), predicted), strict=True)
    for (name, size), (y, p) in zip(sizes.items(), answers, strict=True):
        f1 = f1_score(y, p, average="macro", labels=range(size), zero_division=0)
        assert printed[name] == pytest.approx((f1, accuracy_score(y, p)), abs=5.1e-5)


def test_a_finished_table_is_scored_whatever_the_order_of_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write(tmp_path / "labels.csv", "a,3", "b,9", "c,14", "d,0")
    answers = write(tmp_path / "submission.csv", "c,14", "a,3", "d,", "b,0")
    assert main(["--output", str(answers), "--labels", str(labels)]) == 0
    printed = capsys.readouterr().out
    assert scores(printed)["18 codes"] == pytest.approx((2 / 18, 2 / 4), abs=5e-5)
    assert "1 photo without a prediction, counted as wrong" in printed


def test_the_default_table_lies_where_sagemaker_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write(tmp_path / "submission.csv", "a,3")
    monkeypatch.setenv("SM_OUTPUT_DATA_DIR", str(tmp_path))
    assert main(["--labels", str(table)]) == 0


def test_a_table_with_missing_rows_has_no_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write(tmp_path / "labels.csv", "a,3", "b,9", "c,14")
    answers = write(tmp_path / "submission.csv", "c,14")
    assert main(["--output", str(answers), "--labels", str(labels)]) == 2
    assert "no row for 2 photos" in capsys.readouterr().err


def test_a_mistake_in_a_table_is_a_message_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = write(tmp_path / "submission.csv", "a,3", "b,18")
    assert main(["--output", str(answers), "--labels", str(answers)]) == 2
    assert "row 3: b: '18'" in capsys.readouterr().err


def vote(folder: Path, *flags: str) -> int:
    """combine.py --submissions on three tables in `folder`: a.csv, b.csv and c.csv."""
    write(folder / "a.csv", "x,3", "y,5", "z,9", "w,", "v,1")
    write(folder / "b.csv", "z,0", "y,17", "x,3", "v,", "w,")
    write(folder / "c.csv", "v,2", "w,", "x,3", "y,17", "z,9")
    tables = [str(folder / name) for name in ("a.csv", "b.csv", "c.csv")]
    return main(["--submissions", *tables, "--output", str(folder / "voted.csv"), *flags])


def test_finished_tables_vote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vote(tmp_path) == 2
    output, error = capsys.readouterr()
    rows = (tmp_path / "voted.csv").read_text().split()
    assert rows == ["ImageID,ans", "x,3", "y,17", "z,9", "w,", "v,1"]
    assert "3 tables of 5 rows: all agree on 1; 1 tie went to the earlier table" in output
    assert error.startswith("error: 1 row without a code in any table")
    assert vote(tmp_path, "--allow-bad", "1", "--submission-weights", "1", "3", "1.5") == 0
    assert capsys.readouterr().err.startswith("warning: 1 row without a code in any table")
    rows = (tmp_path / "voted.csv").read_text().split()
    assert rows == ["ImageID,ans", "x,3", "y,17", "z,0", "w,", "v,2"]


def test_a_vote_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = write(tmp_path / "labels.csv", "v,1", "w,4", "x,3", "y,17", "z,8")
    vote(tmp_path, "--labels", str(labels), "--allow-bad", "1")
    output = capsys.readouterr().out
    assert scores(output)["18 codes"] == pytest.approx((3 / 18, 3 / 5), abs=5e-5)
    assert "1 photo without a prediction, counted as wrong" in output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--submissions a.csv", "--submissions a.csv: a single table"),
        ("--submissions a.csv b.csv ../{}/a.csv", "/a.csv is given twice"),
        ("--submissions a.csv b.csv --output b.csv", "--output b.csv: that is one of the tables"),
        ("--submissions a.csv b.csv --labels c.csv --output c.csv", "--output c.csv: that is one"),
        ("--submissions a.csv b.csv --submission-weights 1", "--submission-weights: 1 given for 2"),
        ("--submissions a.csv b.csv --tta flip --age a.pt", "without --age, --tta"),
        ("--submissions a.csv other.csv", "other.csv: other ids than in a.csv\n  y: not in other"),
        ("--submissions a.csv wrong.csv", "wrong.csv: 1 row whose ans isn't 0 to 17"),
        ("--submissions a.csv b.csv --labels short.csv", "short.csv: no row for 1 photo\n"),
    ],
)
def test_tables_that_cannot_vote_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "c.csv"):
        write(tmp_path / name, "x,3", "y,5")
    write(tmp_path / "other.csv", "x,3", "q,5", "r,5")
    write(tmp_path / "wrong.csv", "x,18", "y,0")
    write(tmp_path / "short.csv", "x,1")
    before = sorted(file.read_bytes() for file in tmp_path.iterdir())
    assert main(flags.format(tmp_path.name).split()) == 2
    assert words in capsys.readouterr().err
    assert sorted(file.read_bytes() for file in tmp_path.iterdir()) == before
