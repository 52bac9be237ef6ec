"""python -m common.training.runs: a table of all trainings, and the differences between two."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from age.recipe import AgeRecipe
from common.training import runs
from common.training.experiments import EXPERIMENT_COLUMNS, EXPERIMENTS_TABLE, add
from tests.test_experiments import row
from tests.tiny import environment


@pytest.fixture
def log_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four trainings of two tasks; the second age run is the best one."""
    monkeypatch.setenv("COLUMNS", "200")
    shared = {"folds": 5, "limit": None}
    for number, different in enumerate(
        (
            {"run": "age/1", "macro_f1": 0.41, "time": "2026-11-21T10:00:00+00:00"},
            {"task": "mask", "run": "mask/1", "macro_f1": 0.9, "changes": ""},
            {"run": "age/2", "macro_f1": 0.52, "time": "2026-11-21T12:00:00+00:00"},
            {"run": "age/3", "macro_f1": 0.47, "time": "2026-11-21T11:00:00+00:00"},
        )
    ):
        changes = f"--lr {number + 1} --drop-ages 57-59 28-29 --no-pretrained --weights='-a b.pt'"
        experiment = row(**{"changes": changes} | different)
        add(tmp_path, experiment)
        recipe = AgeRecipe(lr=number + 1.0, drop_ages=((57, 59),) * number).to_dict()
        (tmp_path / experiment.run).mkdir(parents=True)
        saved = json.dumps({"recipe": recipe, "split": shared})
        (tmp_path / experiment.run / "recipe.json").write_text(saved)
    return tmp_path


def printed(capsys: pytest.CaptureFixture, log_dir: Path, line: str) -> list[str]:
    assert runs.main(["--log-dir", str(log_dir), *line.split()]) == 0
    return capsys.readouterr().out.splitlines()


def numbers(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines[1:]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "3412"),
        ("--task age", "341"),
        ("--task age --last 2", "34"),
        ("--sort time", "1243"),
        ("--sort time --last 1", "3"),
        ("--task age --sort val_loss", "143"),
    ],
)
def test_numbers_are_rows_of_the_file_in_any_order(log_dir, capsys, line, expected):
    assert "".join(numbers(printed(capsys, log_dir, line))) == expected


@pytest.mark.parametrize("width", [80, 100, 125, 200])
def test_the_table_fits_the_terminal_and_hides_nothing(log_dir, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    add(log_dir, row(run="age/4", changes="--drop-ages " + "57-59 " * 40 + "--lr 0.002"))
    lines = printed(capsys, log_dir, "--task age")
    assert max(map(len, lines)) <= width
    assert " ".join(lines).count("57-59") == 40 + 3
    assert any("--lr 0.002" in line for line in lines)
    assert not any(line.endswith("--drop-ages") for line in lines)


def test_other_held_out_people_are_noted(log_dir, capsys):
    assert not any("note:" in line for line in printed(capsys, log_dir, ""))
    add(log_dir, row(run="age/4", fold="1"))
    assert "note: age: 2 groups of held-out people" in printed(capsys, log_dir, "")[-1]


def compared(lines: list[str]) -> dict[str, list[str]]:
    """Label → the cells beside it."""
    cells = [[cell.strip() for cell in line.split("  ") if cell] for line in lines]
    return {line[0]: line[1:] for line in cells if line}


def test_compare_shows_what_differs(log_dir, capsys):
    shown = compared(printed(capsys, log_dir, f"--compare 1 {log_dir / 'age' / '2'}"))
    assert shown["lr"] == ["1.0", "3.0"]
    assert shown["drop-ages"] == ["none", "57-59 57-59"]
    assert shown["macro F1"] == ["0.4100", "0.5200", "+0.1100"]
    assert shown["split"] == ["0123456789abcdef"] * 2
    assert "size" not in shown
    assert not any(label.startswith("note:") for label in shown)


def test_compare_without_recipe_json_reads_the_changes(log_dir, capsys):
    (log_dir / "age" / "1" / "recipe.json").unlink()
    add(log_dir, row(run="age/4", changes="--lr 1 --crop none", split="f" * 16))
    shown = compared(printed(capsys, log_dir, "--compare 1 age/4"))
    assert shown["weights"] == ["-a b.pt", "(default)"]
    assert shown["pretrained"] == ["off", "(default)"]
    assert shown["drop-ages"] == ["57-59 28-29", "(default)"]
    assert shown["crop"] == ["(default)", "none"]
    assert "lr" not in shown
    notes = [label for label in shown if label.startswith("note:")]
    assert "age/1/recipe.json" in notes[0]
    assert "the scores don't compare" in notes[-1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--compare 1 5", "--compare 5: "),
        ("--compare 0 1", "has rows 1 to 4"),
        ("--compare 1 age/9", "has no such run"),
        ("--task glasses", "no such training; tasks in it: age, mask"),
        ("--log-dir nowhere", "a training with --log-dir nowhere makes it"),
    ],
)
def test_a_mistake_gets_one_line(log_dir, capsys, line, words):
    assert runs.main(["--log-dir", str(log_dir), *line.split()]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("cells", "words"),
    [(["x"], "row 1 has 1 columns"), (["?"] * len(EXPERIMENT_COLUMNS), "row 1: epochs is '?'")],
)
def test_a_damaged_row_is_named(tmp_path, capsys, cells, words):
    with (tmp_path / EXPERIMENTS_TABLE).open("w") as stream:
        csv.writer(stream).writerows([EXPERIMENT_COLUMNS, cells])
    assert runs.main(["--log-dir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_the_table_needs_no_torch(log_dir):
    code = (
        "import sys\nfrom common.training.runs import main\n"
        f"assert main(['--log-dir', {str(log_dir)!r}]) == 0\n"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(log_dir), check=True, timeout=60)
