"""Options: flags of combine.py that fit together, and a task beside the code."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
from PIL import Image

import combine
from common.base.errors import UserError
from common.inference.options import Options, parse
from common.inference.service.app import response_model
from common.model.recipe import Recipe
from tests.tiny import environment, save_untrained

TASKS = ["mask", "gender", "age"]
MODELS = "--mask m.pt --gender g.pt --age a.pt a2.pt"


def options(line: str, tasks: list[str] = TASKS) -> Options:
    return parse("Test.", tasks, line.split())


def test_flags_become_typed_fields() -> None:
    given = options(f"{MODELS} --age-weights 1 2.5 --tta flip --serve 0 --input a.jpg --held-out")
    assert given.models["age"] == (Path("a.pt"), Path("a2.pt"))
    assert given.weights == {"age": (1.0, 2.5)} and given.weights_of("mask") == (1.0,)
    assert (given.serve, given.input) == (("127.0.0.1", 0), Path("a.jpg"))
    assert given.settings.tta == "flip" and given.held_out and not given.every_face
    given = options(f"{MODELS} --tta flip --age-tta 8").settings
    assert [given.tta_of(task) for task in ("mask", "age")] == ["flip", 8]
    assert options("--ray").ray == "local" and options("--serve").serve == ("127.0.0.1", 8000)
    assert options("") == Options()


@pytest.mark.parametrize(
    ("line", "name"),
    [("", "submission.csv"), ("--faces all", "faces.csv"), ("--input x.mp4", "faces.csv"),
     ("--ray", "codes"), ("--output own.csv", "own.csv")],
)  # fmt: skip
def test_the_file_to_write(line: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SM_OUTPUT_DATA_DIR", raising=False)
    assert options(line).output_file == Path(name)
    monkeypatch.setenv("SM_OUTPUT_DATA_DIR", "out")
    own = "--output" in line
    assert options(line).output_file == Path(name if own else f"out/{name}")


def test_parts_are_not_written_among_the_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where SM_OUTPUT_DATA_DIR names the folder."""
    monkeypatch.setenv("SM_OUTPUT_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="codes: lies in the folder of photos"):
        options(f"--ray --input {tmp_path}").check()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--held-out --input x.jpg", "--input and --held-out: give the one or the other"),
        ("--input x.jpg --data d", "--input and --data: give the one or the other"),
        ("--held-out --output x.csv", "--held-out only scores"),
        ("--report r", "--report goes with --held-out or --labels"),
        ("--labels none.csv", "--labels none.csv: no such file"),
        ("--output x.csv --probs ./x.csv", "--output and --probs: both would write"),
        ("--submission-weights 1", "--submission-weights goes with --submissions"),
        ("--age-weights 1", "--age-weights: 1 given for 2 files; one each"),
        ("--every 2", "--every goes with a video"),
    ],
)
def test_flags_that_contradict_each_other(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made, and no environment variable is set."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        options(f"{MODELS} {line}").check()
    assert words in str(error.value) and not list(tmp_path.iterdir())


# A task beside the code


class HatRecipe(Recipe):
    """A made-up fourth task; train.csv has no such column."""

    task: ClassVar[str] = "hat"
    classes: ClassVar[tuple[str, ...]] = ("none", "cap")


@pytest.fixture(scope="module")
def models(faces, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for recipe in (*combine.CODE, HatRecipe):
        save_untrained(recipe, folder / f"{recipe.task}.pt", faces, crop="face")
    return folder


@pytest.fixture
def run(models, data, cache, tmp_path, monkeypatch):
    """combine.py, to whose TASKS the fourth is added, with the models of some tasks."""
    monkeypatch.setattr(combine, "TASKS", (*combine.TASKS, HatRecipe))
    monkeypatch.chdir(tmp_path)

    def call(line: str, *tasks: str) -> int:
        files = [f"--{task}={models / task}.pt" for task in tasks]
        where = "" if "--input" in line else f"--data {data}"
        return combine.main(
            [*files, *f"{line} {where} --device cpu --workers 0 --cache-dir {cache}".split()]
        )

    return call


def test_a_fourth_task_changes_no_command_of_the_three(run, tmp_path, capsys):
    """Its model is optional, its predictions stand beside the code, which stays as it is."""
    assert run("--output three.csv --probs p3.csv", *TASKS) == 0
    assert run("--output four.csv --probs p4.csv", *TASKS, "hat") == 0
    assert "hat     none " in capsys.readouterr().out
    assert (tmp_path / "three.csv").read_bytes() == (tmp_path / "four.csv").read_bytes()
    three, four = (pd.read_csv(tmp_path / name) for name in ("p3.csv", "p4.csv"))
    assert [c for c in four if c not in three] == ["hat_none", "hat_cap"]
    pd.testing.assert_frame_equal(four[list(three)], three, atol=2e-6)
    assert len(combine.CODES) == 18
    assert run("", "mask", "age", "hat") == 2
    assert "missing --gender FILE" in capsys.readouterr().err


def test_a_fourth_task_stands_in_tables_of_faces_and_beside_a_photos_code(run, faces, tmp_path):
    assert run(f"--faces all --output faces.csv --input {faces[0].path}", *TASKS, "hat") == 0
    table = pd.read_csv(tmp_path / "faces.csv")
    assert set(table["hat"]) <= {"none", "cap"} and table["hat_probability"].between(0.5, 1).all()
    row = table.iloc[0]
    assert combine.NAMES[int(row["code"])] == f"{row['mask']} {row['gender']} {row['age']}"


def test_a_photo_is_printed_with_all_tasks_and_a_code_of_three(run, faces, capsys):
    assert run(f"--input {faces[0].path}", *TASKS, "hat") == 0
    printed = capsys.readouterr().out
    assert "  hat     " in printed
    assert 0 <= int(printed.split("  code    ")[1].split()[0]) < 18


def test_people_are_scored_without_a_label_of_the_fourth_task(run, capsys):
    assert run("--held-out --probs p.csv", *TASKS, "hat") == 0
    assert "18 codes macro F1" in capsys.readouterr().out
    assert {"label", "hat_cap"} <= set(pd.read_csv("p.csv"))


def test_the_service_describes_the_fourth_task() -> None:
    codes = combine.Codes(combine.CODES.classes, others={"hat": HatRecipe.classes})
    schema = response_model(codes).model_json_schema()["$defs"]
    assert {"mask", "gender", "age", "hat", "code"} <= set(schema["Face"]["properties"])
    assert schema["Face"]["properties"]["code"]["exclusiveMaximum"] == 18


def test_a_photo_where_a_model_is_due_is_sent_to_input() -> None:
    with pytest.raises(UserError, match="x.JPG: a photo where a model is due; .* --input x.JPG"):
        options("--mask m.pt --gender g.pt --age a.pt x.JPG").check()


@pytest.mark.parametrize("line", ["--held-out", "--labels x.csv", "--serve", "--input x.mp4"])
def test_json_lines_are_of_photos_to_predict(line: str) -> None:
    with pytest.raises(UserError, match=f"--json .* without {line.split()[0]}"):
        options(f"{MODELS} --json {line}").check()


@pytest.mark.parametrize("which", ["main", "all"])
def test_json_lines_are_all_that_stands_on_stdout(
    which: str, models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [f"--{r.task}={models / r.task}.pt" for r in combine.TASKS]
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (64, 80), "grey").save(photos / "a.jpg")
    (photos / "b.jpg").write_text("no photo")
    words += ["--cache-dir", str(tmp_path / "cache"), "--workers", "0", "--device", "cpu"]
    words += ["--input", str(photos), "--faces", which, "--allow-bad", "1", "--json"]
    assert combine.main(words) == 0
    good, bad = map(json.loads, capfd.readouterr().out.splitlines())
    (face,) = good["faces"]
    assert (good["photo"], bad["photo"]) == ("a.jpg", "b.jpg")
    assert "error" in bad and "faces" not in bad
    assert face["found"] is False and len(face["box"]) == 4
    for recipe in combine.TASKS:
        probabilities = face["probabilities"][recipe.task]
        assert tuple(probabilities) == recipe.classes
        assert face[recipe.task] == max(probabilities, key=probabilities.get)
    indices = [task.classes.index(face[task.task]) for task in combine.CODE]
    assert face["code"] == combine.encode(indices)
    assert "unsure" not in face
    likely = {r.task: max(face["probabilities"][r.task].values()) for r in combine.TASKS}
    least = sum(sorted(likely.values())[:2]) / 2  # between the lowest and the next
    (task,) = (task for task, probability in likely.items() if probability < least)
    table = tmp_path / "probs.csv"
    assert combine.main([*words, "--unsure", str(least), "--probs", str(table)]) == 0
    good, _ = map(json.loads, capfd.readouterr().out.splitlines())
    assert good["faces"][0]["unsure"] == [task]
    assert [row["unsure"] for row in csv.DictReader(table.read_text().splitlines())] == [task, ""]
    words[words.index("--input") + 1] = str(photos / "a.jpg")
    assert combine.main([*words[:-1], "--unsure", str(least)]) == 0
    assert len(re.findall(r"unsure\n|%\?", capfd.readouterr().out)) == 1


THERE = "--mask m.pt --gender m.pt --age m.pt"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--mask none.pt --gender m.pt --age m.pt", "none.pt: no such checkpoint"),
        ("--mask m.pt --gender m.pt --age none.onnx", "none.onnx: no such checkpoint"),
        (f"{THERE} --input none.jpg", "none.jpg: no such photo or folder"),
        (f"{THERE} --input none.mp4", "none.mp4: no such video"),
        (f"{THERE} --data none", "none: nothing to predict here"),
        (THERE, "data: nothing to predict here"),
    ],
)
def test_a_wrong_path_is_refused_before_the_seconds_that_torch_takes(tmp_path, line, words):
    (tmp_path / "m.pt").touch()
    code = (
        "import sys, combine\n"
        f"status = combine.main({line.split()!r})\n"
        "print(status, sorted({'torch', 'pandas', 'timm', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "2 []\n"
    assert words in done.stderr and done.stderr.count("\n") == 1
